"""The language server, asked as an editor asks it: a process, JSON-RPC over its standard input and output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optlang import resources
from optlang.cli.app import command
from optlang.diagnostics.fixes import applied
from optlang.diagnostics.model import Fix, Span

ROOT = Path(__file__).parents[2]
STUDY = """\
optlang 1

study small {
  input most: int in 1 .. 9 = 3 "epochs"
  model net  = zoo.digits_cnn()
  data  seen = zoo.digits()
  target laptop {
    runtime in { eager; onnxruntime }
  }
  steps {
    maybe thin = {
      prune = channels { ratio in 20% .. 60% step 20% }
      finetune { epochs in 1 .. most }
    }
    precision in {
      none
      light = static { samples in [64, 256] }
      dynamic
    }
  }
  forbid thin.prune.ratio > 30% and precision == light
  forbid precision in {light, dynamic} and laptop.runtime == eager
  require latency <= 2ms
  minimize latency
  maximize accuracy
}
"""


class Client:
    """The least that an editor is: it sends requests and notifications, and keeps what it is reported of files."""

    def __init__(self, folder: Path, encodings: list[str] | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.log = folder.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "optlang", "lsp"], cwd=folder, env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log,
            )
        # A server that never answers ends the test, not the day.
        self.guard = threading.Timer(120, self.process.kill)
        self.guard.daemon = True
        self.guard.start()
        self.folder, self.number, self.versions = folder, 0, dict[str, int]()
        self.asked: list[dict[str, Any]] = []
        general = {"positionEncodings": encodings} if encodings else {}
        workspace = {"didChangeWatchedFiles": {"dynamicRegistration": True}}
        able = {"general": general, "workspace": workspace}
        self.can = self.ask("initialize", processId=None, rootUri=folder.as_uri(), capabilities=able)
        self.tell("initialized")

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        length = 0
        while (line := self.process.stdout.readline().strip()) or not length:
            assert line or self.process.poll() is None, self.log.read_text()
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        message: dict[str, Any] = json.loads(self.process.stdout.read(length))
        if "method" in message and "id" in message:
            self.asked.append(message)
            self._send({"id": message["id"], "result": None})
        return message

    def tell(self, method: str, **params: Any) -> None:
        self._send({"method": method, "params": params})

    def ask(self, method: str, **params: Any) -> Any:
        """The result of a request; the error, with its code, where it was refused."""
        self.number += 1
        self._send({"id": self.number, "method": method, "params": params or None})
        while (message := self._read()).get("id") != self.number or "method" in message:
            pass
        return message.get("error") or message.get("result")

    def open(self, text: str, name: str = "study.opt") -> str:
        uri = name if ":" in name else (self.folder / name).as_uri()
        self.versions[uri] = 1
        document = {"uri": uri, "languageId": "optlang", "version": 1, "text": text}
        self.tell("textDocument/didOpen", textDocument=document)
        return uri

    def change(self, uri: str, text: str) -> None:
        self.versions[uri] += 1
        self.tell("textDocument/didChange", textDocument={"uri": uri, "version": self.versions[uri]},
                  contentChanges=[{"text": text}])

    def problems(self, uri: str) -> list[dict[str, Any]]:
        """What is reported next of a file."""
        while True:
            message = self._read()
            if message.get("method") == "textDocument/publishDiagnostics" and message["params"]["uri"] == uri:
                found: list[dict[str, Any]] = message["params"]["diagnostics"]
                return found

    def taken_back(self, uri: str) -> None:
        """Nothing is reported of a file any more, in the end: the check of any open file checks those that import once
        more, so that one which began before may report what it found until then. The guard ends a wait in vain."""
        while self.problems(uri):
            pass

    def at(self, method: str, uri: str, text: str, mark: str, **more: Any) -> Any:
        """Ask about the place of `|` in `mark`, which stands in the text without it."""
        offset = text.index(mark.replace("|", "")) + mark.index("|")
        return self.ask(f"textDocument/{method}", textDocument={"uri": uri}, position=place(text, offset), **more)

    def offered(self, text: str, name: str = "typed.opt") -> dict[str, dict[str, Any]]:
        """What is offered at `|` in a text."""
        offset = text.index("|")
        uri = self.open(text.replace("|", "", 1), name)
        found = self.ask("textDocument/completion", textDocument={"uri": uri}, position=place(text, offset))
        self.tell("textDocument/didClose", textDocument={"uri": uri})
        return {item["label"]: item for item in found["items"]}

    def end(self) -> int:
        """Shut the server down as the protocol says; its exit code."""
        assert self.ask("shutdown") is None
        self.tell("exit")
        return self.gone()

    def gone(self) -> int:
        """Go away; the server's exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self.process.stdin, self.process.stdout:
            pass
        try:
            return self.process.wait(10)
        finally:
            self.guard.cancel()


def place(text: str, offset: int) -> dict[str, int]:
    """Line and column in UTF-16, counted apart from the server's way."""
    before = text[:offset].split("\n")
    return {"line": len(before) - 1, "character": sum(2 if ord(sign) > 0xFFFF else 1 for sign in before[-1])}


def cut(text: str, area: dict[str, Any]) -> str:
    """What stands in a range of UTF-16 places."""
    return text[offset_of(text, area["start"]) : offset_of(text, area["end"])]


def offset_of(text: str, spot: dict[str, int]) -> int:
    start = sum(len(line) + 1 for line in text.split("\n")[: spot["line"]])
    return next(at for at in range(start, len(text) + 1) if place(text, at) == spot)


def edited(text: str, edits: list[dict[str, Any]]) -> str:
    """The text after an editor's edits."""
    spans = [(offset_of(text, item["range"]["start"]), offset_of(text, item["range"]["end"])) for item in edits]
    return applied(text, [Fix(Span("", *span), item["newText"]) for span, item in zip(spans, edits, strict=True)])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    made = Client(tmp_path_factory.mktemp("editor"))
    yield made
    assert made.end() == 0


def test_a_right_study_has_no_problems_and_the_server_says_what_it_can(client: Client) -> None:
    can = client.can["capabilities"]
    for name in ("completion", "hover", "definition", "documentFormatting", "rename", "codeAction"):
        assert can[f"{name}Provider"], name
    assert can["textDocumentSync"]["change"] == 1
    assert client.problems(client.open(STUDY, "right.opt")) == []


def test_problems_are_told_while_typing_with_places_behind_an_emoji(client: Client) -> None:
    text = STUDY.replace("static {", "sttic {").replace('"epochs"', '"epochs 🚀" # 🚀')
    text = text.replace("  minimize latency", '  require size <= 1MB because "🚀🚀" ; minimise latency')
    uri = client.open(text, "slips.opt")
    found = {cut(text, item["range"]): item for item in client.problems(uri)}
    assert found["sttic"]["code"] == "E201"
    assert "did you mean `static`?" in found["sttic"]["message"]
    assert found["minimise"]["code"] == "E101"
    assert found["minimise"]["range"]["start"]["character"] == len("  require size <= 1MB because \"....\" ; ")
    assert all(item["source"] == "optlang" for item in found.values())
    client.change(uri, STUDY)
    assert client.problems(uri) == []


def test_fixes_of_the_kind_that_is_asked_for(client: Client) -> None:
    text = STUDY.replace("static {", "sttic {")
    uri = client.open(text, "kinds.opt")
    area = {"start": place(text, 0), "end": place(text, len(text))}
    for kind, wanted in (("source.fixAll", ["source.fixAll.optlang"]), ("quickfix", ["quickfix"]), ("refactor", [])):
        found = client.ask("textDocument/codeAction", textDocument={"uri": uri}, range=area,
                           context={"diagnostics": [], "only": [kind]})
        assert [item["kind"] for item in found] == wanted


def test_places_that_name_a_label(client: Client) -> None:
    uri = client.open(STUDY, "places.opt")
    found = client.at("references", uri, STUDY, "precision == li|ght", context={"includeDeclaration": True})
    assert [cut(STUDY, item["range"]) for item in found] == ["light"] * 3


def test_labels_of_a_problem_are_related_places(client: Client) -> None:
    text = STUDY.replace("  minimize", "  input most: int = 2\n  minimize")
    uri = client.open(text, "twice.opt")
    (found,) = client.problems(uri)
    (related,) = found["relatedInformation"]
    assert (found["code"], related["message"], related["location"]["uri"]) == ("E202", "the first time", uri)
    assert cut(text, related["location"]["range"]) == "most"


def test_a_fix_is_a_quick_fix_and_all_are_one_action(client: Client) -> None:
    text = STUDY.replace("static {", "sttic {").replace("epochs in", "epoch in")
    uri = client.open(text, "fixes.opt")
    start = place(text, text.index("sttic"))
    found = client.ask("textDocument/codeAction", textDocument={"uri": uri}, range={"start": start, "end": start},
                       context={"diagnostics": []})
    one, everything = found
    assert (one["kind"], one["title"]) == ("quickfix", "write `static` for `sttic`")
    assert [item["code"] for item in one["diagnostics"]] == ["E201"]
    assert edited(text, one["edit"]["changes"][uri]) == text.replace("sttic", "static")
    assert everything["kind"] == "source.fixAll.optlang"
    assert edited(text, everything["edit"]["changes"][uri]) == STUDY


@pytest.mark.parametrize(("typed", "wanted", "unwanted"), [
    ("|", {"study", "import", "technique"}, {"steps", "static"}),
    ("study x {\n  |\n}", {"steps", "target", "require"}, {"study", "static", "needs"}),
    ("study x {\n  model a = |\n}", {"digits_cnn", "zoo.digits_cnn"}, {"static"}),
    ("study x {\n  model a = zoo.digits_cnn(|)\n}", {"width"}, {"ratio"}),
    ("study x {\n  target t = |\n}", {"cpu", "targets.cpu"}, {"static"}),
    ("study x {\n  target t { | }\n}", {"threads", "batch", "runtime", "device"}, {"static"}),
    ("study x {\n  target t { threads = 2; th| }\n}", {"batch"}, {"threads"}),
    ("study x {\n  target t { device = | }\n}", {"cpu", "cuda", "browser"}, {"eager"}),
    ("study x {\n  target t { runtime in { | } }\n}", {"eager", "onnxruntime"}, {"static", "threads"}),
    ("study x {\n  target t { runtime = onnxruntime { | } }\n}", {"graph", "opset"}, {"threads"}),
    ("study x {\n  steps {\n    |\n  }\n}", {"static", "channels", "iterative", "maybe", "repeat"}, {"study", "eager"}),
    ("study x {\n  steps {\n    maybe s|\n  }\n}", {"static"}, {"maybe"}),
    ("study x {\n  steps {\n    a = |\n  }\n}", {"static", "quant.static"}, {"maybe"}),
    ("study x {\n  steps { precision in { | } }\n}", {"none", "static"}, {"eager"}),
    ("study x {\n  steps {\n    channels { | }\n  }\n}", {"ratio", "scope"}, {"static", "maybe"}),
    ("study x {\n  steps { channels { ratio = 3%, | ; scope = layer } }\n}", {"importance"}, {"ratio", "scope"}),
    ("study x {\n  steps {\n    channels { scope = | }\n  }\n}", {"layer", "global"}, {"any", "l1"}),
    ("study x {\n  steps {\n    channels { scope in | }\n  }\n}", {"any", "layer"}, {"l1"}),
    ("study x {\n  steps {\n    channels { importance in {l1, | } }\n  }\n}", {"taylor"}, {"layer"}),
    ("study x {\n  steps {\n    p in { none; dynamic }\n    channels { ratio = 5% when p == | }\n  }\n}",
     {"dynamic", "p"}, {"scope", "static"}),
    ("study x {\n  steps {\n    channels { scope in {layer, global}; ratio = 5% when | }\n  }\n}",
     {"channels.scope"}, {"importance"}),
    ("study x {\n  steps {\n    distill { teachers = | }\n  }\n}", {"digits_cnn"}, {"static"}),
    ("study x {\n  minimize |\n}", {"latency", "size", "accuracy"}, {"baseline.size", "static"}),
    ("study x {\n  require accuracy >= |\n}", {"baseline.accuracy", "size"}, {"static"}),
    ("study x {\n  steps { p in { none; fast = static } }\n  forbid p == |\n}", {"fast", "p"}, {"static"}),
    ("study x {\n  steps { p in { none; fast = static } }\n  forbid p in {|}\n}", {"fast"}, {"p", "static"}),
    ("study x {\n  input most: |\n}", {"int", "ratio"}, {"static"}),
    ("study x {\n  search { sampler = | }\n}", {"tpe", "nsga2"}, {"trials"}),
    ("study x {\n  search { | }\n}", {"trials", "sampler"}, {"rounds"}),
    ("study x {\n  search { sampler = tpe { | } }\n}", {"startup"}, {"trials"}),
    ("study x {\n  measure { | }\n}", {"front_rounds"}, {"trials"}),
    ("technique t {\n  takes |\n}", {"module", "onnx"}, {"static"}),
    ("technique t {\n  |\n}", {"param", "calls", "excludes"}, {"performs", "steps"}),
    ("pipeline t {\n  steps { | }\n}", {"static"}, {"param"}),
    ("import |", {"python", "quant"}, {"static"}),
    ("from quant import |", {"static"}, {"channels"}),
    ("study x {\n  # |\n}", set(), {"steps"}),
    ('study x "|" {\n}', set(), {"steps"}),
    ("study x {\n  steps { channels { ratio = 3|", set(), {"ratio", "static"}),
])
def test_what_is_offered_belongs_there(client: Client, typed: str, wanted: set[str], unwanted: set[str]) -> None:
    found = client.offered(f"optlang 1\n{typed}").keys()
    assert wanted <= found
    assert not unwanted & found


def test_an_offer_says_type_domain_default_and_help(client: Client) -> None:
    ratio = client.offered("optlang 1\nstudy x { steps { channels { ra| } } }")["ratio"]
    assert ratio["detail"] == "ratio: ratio in 1% .. 95% = 50%"
    assert ratio["documentation"] == "share of the channels to remove, of each layer or of all (see `scope`)"
    assert ratio["textEdit"]["newText"] == "ratio"
    static = client.offered("optlang 1\nstudy x { steps { st| } }")["static"]
    whole = client.ask("completionItem/resolve", **static)["documentation"]["value"]
    assert "calibrator: name in {" in whole
    assert "takes " in whole


def test_python_beside_a_study_is_offered_and_never_run(client: Client) -> None:
    (client.folder / "mine.py").write_text("raise SystemExit('was run')\ndef net(width=8, depth=2): ...\n")
    head = 'optlang 1\nimport python "mine.py" as mine\nstudy x {\n  model a = mine.'
    assert client.offered(f"{head}|\n}}")["mine.net"]["detail"] == "(width, depth)"
    assert client.offered(f"{head}net(width = 1, |)\n}}").keys() == {"depth", "weights"}
    given = client.offered(f'{head}net(width = 1, weights = "a.pt", |)\n}}')
    assert given.keys() == {"depth", "weights_key", "weights_strict"}
    text = f"{head}net()\n}}"
    found = client.at("definition", client.open(text, "python.opt"), text, "mine.ne|t")
    assert (found["uri"], found["range"]["start"]) == (
        (client.folder / "mine.py").as_uri(), {"line": 1, "character": 4})


@pytest.mark.parametrize(("mark", "wanted"), [
    ("cha|nnels {", ["remove whole channels", "`ratio: ratio in 1% .. 95% = 50%`"]),
    ("rat|io in", ["ratio: ratio in 1% .. 95% = 50%", "share of the channels to remove"]),
    ("zoo.digits_|cnn", ["`width: int"]), ("z|oo.digits()", ["seed"]),
    ("onnx|runtime }", ["ONNX Runtime"]), ("maximize accu|racy", ["share of correct predictions"]),
    ("forbid thin.pr|une", ["knob thin.prune.ratio", "in [20%, 40%, 60%]"]),
    ("pre|cision in {\n", ["knob precision", "in {none, light, dynamic}"]),
])
def test_hover_says_what_a_word_is(client: Client, mark: str, wanted: list[str]) -> None:
    uri = client.open(STUDY, "hover.opt")
    said = client.at("hover", uri, STUDY, mark)["contents"]["value"]
    assert all(part in said for part in wanted), said


def test_hover_of_nothing_is_nothing(client: Client) -> None:
    uri = client.open(STUDY, "hover.opt")
    assert client.at("hover", uri, STUDY, "small {|") is None


@pytest.mark.parametrize(("mark", "before"), [
    ("forbid thin.pr|une", "      |prune = "), ("forbid th|in.prune", "    maybe |thin"),
    ("prune.rat|io >", "channels { |ratio"), ("precision == li|ght", "      |light = "),
    ("{light, dyn|amic}", "      |dynamic"), ("1 .. mo|st", "input |most"), ("lap|top.runtime ==", "target |laptop"),
])
def test_definitions_in_the_study(client: Client, mark: str, before: str) -> None:
    uri = client.open(STUDY, "define.opt")
    found = client.at("definition", uri, STUDY, mark)
    assert found["uri"] == uri
    assert found["range"]["start"] == place(STUDY, STUDY.index(before.replace("|", "")) + before.index("|"))


def test_definitions_in_modules_and_the_library(client: Client) -> None:
    module = 'optlang 1\n\ntechnique mild "🚀" { calls "parts.py:mild"; takes module }\n'
    (client.folder / "parts.opt").write_text(module)
    (client.folder / "parts.py").write_text("def mild(state): ...\n")
    text = "optlang 1\nimport parts\n" + STUDY[10:].replace("light = static {", "parts.mild\n      light = static {")
    uri = client.open(text, "uses.opt")
    found = client.at("definition", uri, text, "parts.mi|ld")
    assert found == {"uri": (client.folder / "parts.opt").as_uri(), "range": {
        "start": {"line": 2, "character": 10}, "end": {"line": 2, "character": 14}}}
    found = client.at("definition", uri, text, "= sta|tic")
    library = resources.stdlib() / "quant.opt"
    assert found["uri"] == library.as_uri()
    assert cut(library.read_text(), found["range"]) == "static"
    found = client.at("definition", uri, text, "{ sam|ples")
    assert cut(library.read_text(), found["range"]) == "samples"


def test_a_module_that_is_not_saved_goes_before_the_file(client: Client) -> None:
    study = "optlang 1\nfrom fresh import soft\n" + STUDY[10:].replace("      dynamic\n", "      soft\n").replace(
        "{light, dynamic}", "{light, soft}")
    uri = client.open(study, "reads.opt")
    assert [item["code"] for item in client.problems(uri)] == ["E203"]
    client.open("optlang 1\npipeline soft { steps { dynamic } }\n", "fresh.opt")
    # A check that had begun before may still report what it found.
    assert any(client.problems(uri) == [] for _ in range(3))
    assert not (client.folder / "fresh.opt").exists()


def test_a_file_that_has_no_place_yet(client: Client) -> None:
    uri = client.open(STUDY.replace("zoo.digits()", "zoo.digts()"), "untitled:Untitled-1")
    (found,) = client.problems(uri)
    assert found["code"] == "E201"


def test_what_is_wrong_in_a_module_is_told_there_and_taken_back(client: Client) -> None:
    (client.folder / "bad.opt").write_text("optlang 1\npipeline soft { steps { dynamc } }\n")
    uri = client.open("optlang 1\nfrom bad import soft\n" + STUDY[10:].replace("dynamic\n", "soft\n"), "importer.opt")
    there = (client.folder / "bad.opt").as_uri()
    (found,) = client.problems(there)
    assert found["code"] == "E201"
    client.tell("textDocument/didClose", textDocument={"uri": uri})
    client.taken_back(there)


def test_a_change_of_python_on_disk_is_seen(client: Client) -> None:
    place = client.folder / "late.py"
    text = STUDY.replace("zoo.digits_cnn()", "late.net()").replace(
        "study small", 'import python "late.py" as late\nstudy x'
    )
    uri = client.open(text, "late.opt")
    assert [item["code"] for item in client.problems(uri)] == ["E203"]
    (watched,) = client.asked[0]["params"]["registrations"]
    assert watched["method"] == "workspace/didChangeWatchedFiles"
    place.write_text("def net(): ...\n")
    client.tell("workspace/didChangeWatchedFiles", changes=[{"uri": place.as_uri(), "type": 1}])
    client.taken_back(uri)


def test_layout_is_that_of_fmt_and_a_file_with_mistakes_is_left_alone(client: Client) -> None:
    options = {"tabSize": 8, "insertSpaces": False}
    uri = client.open(STUDY.replace("\n  ", "\n\t"), "layout.opt")
    edits = client.ask("textDocument/formatting", textDocument={"uri": uri}, options=options)
    (edit,) = edits
    (client.folder / "layout.opt").write_text(STUDY.replace("\n  ", "\n\t"))
    subprocess.run([sys.executable, "-m", "optlang", "fmt", "layout.opt"], cwd=client.folder, check=True,
                   env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert edit["newText"] == (client.folder / "layout.opt").read_text()
    client.change(uri, edit["newText"])
    assert client.ask("textDocument/formatting", textDocument={"uri": uri}, options=options) == []
    client.change(uri, STUDY.replace("study small {", "study small"))
    assert client.ask("textDocument/formatting", textDocument={"uri": uri}, options=options) is None


@pytest.mark.parametrize(("mark", "name", "wanted"), [
    ("pr|une = ", "cut", [("prune =", "cut ="), ("thin.prune.", "thin.cut.")]),
    ("forbid th|in", "slim", [("maybe thin", "maybe slim"), ("thin.prune", "slim.prune")]),
    ("li|ght = ", "int8", [("light =", "int8 ="), ("== light", "== int8"), ("{light,", "{int8,")]),
    ("precision == li|ght", "int8", [("light =", "int8 ="), ("== light", "== int8"), ("{light,", "{int8,")]),
    ("precis|ion ==", "bits",
     [("    precision", "    bits"), ("precision ==", "bits =="), ("precision in {l", "bits in {l")]),
    ("      dyn|amic\n", "live", [("      dynamic", "      live = dynamic"), ("light, dynamic", "light, live")]),
    ("target lap|top", "desk", [("laptop {", "desk {"), ("laptop.runtime", "desk.runtime")]),
    ("1 .. mo|st", "longest", [("input most", "input longest"), ("1 .. most", "1 .. longest")]),
])
def test_a_label_is_renamed_wherever_it_is_named(
    client: Client, mark: str, name: str, wanted: list[tuple[str, str]]
) -> None:
    uri = client.open(STUDY, "rename.opt")
    found = client.at("rename", uri, STUDY, mark, newName=name)
    text = STUDY
    for old, new in wanted:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    assert edited(STUDY, found["changes"][uri]) == text


@pytest.mark.parametrize(("mark", "name", "said"), [
    ("li|ght = ", "dynamic", "would be wrong here"), ("li|ght = ", "when", "cannot be a name"),
    ("li|ght = ", "9", "cannot be a name"), ("{ rat|io", "share", "is a parameter"),
    ("study sm|all", "big", "nothing here"),
])
def test_a_rename_that_cannot_be_says_why(client: Client, mark: str, name: str, said: str) -> None:
    uri = client.open(STUDY, "rename.opt")
    found = client.at("rename", uri, STUDY, mark, newName=name)
    assert found["code"] == -32803
    assert said in found["message"]


def test_what_may_be_renamed_is_said_beforehand(client: Client) -> None:
    uri = client.open(STUDY, "rename.opt")
    assert client.at("prepareRename", uri, STUDY, "thin.pr|une")["placeholder"] == "prune"
    assert client.at("prepareRename", uri, STUDY, "chan|nels") is None


def test_an_editor_that_counts_otherwise_is_understood(tmp_path: Path) -> None:
    client = Client(tmp_path, encodings=["utf-32", "utf-16"])
    assert client.can["capabilities"]["positionEncoding"] == "utf-32"
    text = STUDY.replace("  minimize", '  require size <= 1MB because "🚀🚀"; minimise')
    (found,) = client.problems(client.open(text))
    line = text.split("\n")[found["range"]["start"]["line"]]
    assert line[found["range"]["start"]["character"] :].startswith("minimise")
    assert client.end() == 0


def test_an_editor_that_goes_without_a_word_is_not_waited_for(tmp_path: Path) -> None:
    client = Client(tmp_path)
    assert client.gone() == 1


def test_nothing_heavy_is_loaded_and_pygls_by_this_command_alone(tmp_path: Path) -> None:
    heavy = ("torch", "numpy", "optuna", "duckdb", "onnx", "onnxruntime")
    program = f"""
        import sys
        import optlang.cli.lsp, optlang.cli.app
        assert "pygls" not in sys.modules
        from optlang.editor.server import made
        server = made()
        document = server.documents.put(__import__("pathlib").Path("study.opt"), {STUDY!r})
        assert not server.documents.check(document).loaded.diagnostics
        assert server.items(document, 200) is not None
        print(*[name for name in {heavy} if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split() == []


def test_without_pygls_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("optlang.cli.lsp.find_spec", lambda name: None)
    assert command(["lsp"]) == 3
    assert 'pip install "optlang-dsl[lsp]"' in capsys.readouterr().err
