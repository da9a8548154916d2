"""What stands around the page of `ort_web`: the server, where browsers and the library's files are looked for."""

import http.client
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from optlang.interfaces import OptlangError, OutsideError, QuantWants
from optlang.runtimes.ort_web import browser
from optlang.runtimes.ort_web import files as ort_web_files
from optlang.runtimes.ort_web.browser import Server
from optlang.runtimes.ort_web.build import OrtWeb


@pytest.fixture
def server(tmp_path):
    (tmp_path / "secret.txt").write_text("mine")
    (tmp_path / "lib.wasm").write_bytes(b"\0asm")
    made = Server()
    yield made
    made.close()


def asked(server, path, method="GET", body=None, **headers):
    connection = http.client.HTTPConnection(server.host, timeout=10)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def path_of(server, address):
    return address.removeprefix(f"http://{server.host}")


def test_only_what_was_put_is_served_and_the_page_is_isolated(server, tmp_path):
    path = path_of(server, server.put("ort/lib.wasm", tmp_path / "lib.wasm"))
    answer, content = asked(server, path)
    assert (answer.status, content) == (200, b"\0asm")
    assert answer.headers["Content-Type"] == "application/wasm"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    folder = path.rpartition("/")[0]
    for other in (
        "/", "/ort/lib.wasm", f"{folder}/secret.txt", f"{folder}/../secret.txt", f"{folder}/%2e%2e/secret.txt",
        f"{path}/../../secret.txt", str(tmp_path / "secret.txt"),
    ):
        assert asked(server, other)[0].status == 404
    # A name that leads here by way of somebody's page.
    assert asked(server, path, Host="example.com")[0].status == 404
    server.drop(f"http://{server.host}{path}")
    assert asked(server, path)[0].status == 404


def test_posts_are_taken_once_and_where_they_are_awaited(server):
    address = server.awaited("answer/1")
    path = path_of(server, address)
    with pytest.raises(OptlangError, match="sent no answer"):
        Server.taken(server, server.awaited("answer/2"))
    assert asked(server, path + "0", "POST", b"x")[0].status == 404
    assert asked(server, path, "POST", b"abc", Host="example.com")[0].status == 404
    assert asked(server, path, "POST", b"abc")[0].status == 204
    assert asked(server, path, "POST", b"later")[0].status == 404
    assert server.taken(address) == b"abc"


def test_server_listens_on_loopback_under_a_name_of_its_own(server):
    assert server.host.startswith("127.0.0.1:")
    other = Server()
    assert other.root.split("/")[3] != server.root.split("/")[3]
    other.close()


def test_text_of_a_page_does_not_end_its_script():
    text = browser.page("x.mjs", {"name": "</script><b>"}).decode()
    assert text.count("</script>") == 2
    told = text.partition('type="application/json">')[2].partition("</script>")[0]
    assert json.loads(told) == {"name": "</script><b>"}


def program_at(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(0o755)
    return path


def test_browsers_are_looked_for_by_name_on_the_path_and_where_playwright_puts_them(monkeypatch, tmp_path):
    monkeypatch.setattr(browser, "_APPLICATIONS", ())
    monkeypatch.delenv(browser.VARIABLE, raising=False)
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "own"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert browser.program() is None
    assert "no browser was found: install Chromium" in OrtWeb().available()
    older = program_at(tmp_path / "own" / "chromium-1" / "chrome-linux" / "chrome")
    newer = program_at(tmp_path / "own" / "chromium-2" / "chrome-linux64" / "chrome")
    os.utime(older, (1, 1))
    assert browser.program() == newer
    found = program_at(tmp_path / "bin" / "chromium")
    assert browser.program() == found
    monkeypatch.setenv(browser.VARIABLE, str(older))
    assert browser.program() == older
    monkeypatch.setenv(browser.VARIABLE, "netscape")
    assert "OPTLANG_BROWSER names the browser netscape, which was not found" in OrtWeb().available()


def packed(path, name=ort_web_files.PACKAGE, version="1.0.0", without=()):
    """A package as npm packs it, with small files."""
    files = {"package/package.json": json.dumps({"name": name, "version": version})}
    files |= {f"package/dist/{file}": file for file in (*ort_web_files.ALL, "more.js") if file not in without}
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(ort_web_files, "caches", lambda: tmp_path / "cache")
    monkeypatch.delenv(ort_web_files.VARIABLE, raising=False)
    return tmp_path / "cache" / "optlang"


def test_a_package_is_kept_whole_or_not_at_all(cache, tmp_path, capsys):
    assert ort_web_files.folder() is None
    assert "`python -m optlang.runtimes.ort_web.files` downloads them from npm" in OrtWeb().available()
    archive = packed(tmp_path / "a.tgz", version=ort_web_files.VERSION)
    for _ in range(2):
        assert ort_web_files.main(["--from", str(archive)]) == 0
    place = cache / f"onnxruntime-web-{ort_web_files.VERSION}"
    assert capsys.readouterr().out == f"{place}\n" * 2
    assert ort_web_files.folder() == place
    assert {path.name for path in place.iterdir()} == {*ort_web_files.ALL, "package.json"}
    assert ort_web_files.version(place) == ort_web_files.VERSION
    assert [path.name for path in cache.iterdir()] == [place.name]
    for wrong, why in (
        (packed(tmp_path / "b.tgz", name="left-pad"), "is the package left-pad, not onnxruntime-web"),
        (packed(tmp_path / "c.tgz", version="2.0.0", without=[ort_web_files.ALL[-1]]), "cannot be unpacked: "),
        (tmp_path / "none.tgz", "cannot be unpacked: "),
    ):
        assert ort_web_files.main(["--from", str(wrong)]) == OutsideError.exit_code
        assert why in capsys.readouterr().err
    assert [path.name for path in cache.iterdir()] == [place.name]
    assert ort_web_files.main(["--from", str(packed(tmp_path / "d.tgz", version="3.0.0"))]) == 0
    assert "set OPTLANG_ORT_WEB to use it instead" in capsys.readouterr().out


def test_a_folder_that_is_named_comes_first_and_must_have_the_files(cache, monkeypatch, tmp_path):
    ort_web_files.unpack(packed(tmp_path / "a.tgz", version=ort_web_files.VERSION))
    mine = tmp_path / "node_modules" / "onnxruntime-web"
    (mine / "dist").mkdir(parents=True)
    (mine / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": "1.29.0"}))
    monkeypatch.setenv(ort_web_files.VARIABLE, str(mine))
    assert f"OPTLANG_ORT_WEB names {mine}, where there is no ort.wasm.min.mjs" in OrtWeb().available()
    for name in ort_web_files.names("wasm"):
        (mine / "dist" / name).touch()
    assert ort_web_files.folder() == mine / "dist"
    assert ort_web_files.version(mine / "dist") == "1.29.0"
    monkeypatch.setenv(ort_web_files.VARIABLE, str(mine / "dist"))
    assert ort_web_files.folder() == mine / "dist"


def test_npm_fetches_the_package_and_what_it_says_is_told(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(OutsideError, match="npm, which downloads onnxruntime-web, was not found"):
        ort_web_files.fetch()
    archive = packed(tmp_path / "a.tgz", version="1.2.3")
    npm = program_at(tmp_path / "bin" / "npm")
    npm.write_text(f'#!/bin/sh\n[ "$1 $2" = "pack onnxruntime-web@1.2.3" ] && /bin/cp {archive} "$4/"\n')
    assert ort_web_files.version(ort_web_files.fetch("1.2.3")) == "1.2.3"
    npm.write_text("#!/bin/sh\necho 'npm notice hello' >&2\necho 'npm error code E404' >&2\nexit 1\n")
    with pytest.raises(OutsideError, match=r"npm does not fetch onnxruntime-web 9\.9\.9: npm error code E404"):
        ort_web_files.fetch("9.9.9")


def test_int8_uses_all_eight_bits_whatever_the_processor():
    assert OrtWeb().wants() == QuantWants("uint8", "int8", False, True, True)


def test_the_script_of_the_page_comes_with_the_package():
    assert Path(browser.__file__).with_name("session.mjs").is_file()
