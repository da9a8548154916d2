// Which command is found, and what is said where it does not start. Needs Node alone: node --test test/

"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { test } = require("node:test");
const { StartError, expanded, find, start } = require("../src/command");

const POSIX = process.platform !== "win32";

function folder(t) {
  const made = fs.mkdtempSync(path.join(os.tmpdir(), "optlang-"));
  t.after(() => fs.rmSync(made, { recursive: true }));
  return made;
}

/** A program of the shell, as a command that can be started. */
function program(place, text) {
  fs.mkdirSync(path.dirname(place), { recursive: true });
  fs.writeFileSync(place, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  return place;
}

test("a path of the setting is seen from the folder, a bare word from PATH", () => {
  assert.equal(expanded("optlang", "/work"), "optlang");
  assert.equal(expanded(" .venv/bin/optlang ", "/work"), path.join("/work", ".venv/bin/optlang"));
  assert.equal(expanded("${workspaceFolder}/bin/optlang", "/work"), "/work/bin/optlang");
  assert.equal(expanded("~/bin/optlang", undefined), `${os.homedir()}/bin/optlang`);
});

test("the setting goes before an environment, that before the interpreter, that before PATH", { skip: !POSIX }, (t) => {
  const here = folder(t);
  const other = folder(t);
  const beside = program(path.join(other, "bin", "optlang"), "exit 0");
  const interpreter = path.join(other, "bin", "python");
  assert.deepEqual(find({ folders: [here] }), { command: "optlang", from: "PATH" });
  assert.equal(find({ folders: [here], interpreter }).command, beside);
  const inside = program(path.join(here, "venv", "bin", "optlang"), "exit 0");
  assert.equal(find({ folders: [here], interpreter }).command, inside);
  const first = program(path.join(here, ".venv", "bin", "optlang"), "exit 0");
  assert.equal(find({ folders: [other, here], interpreter }).command, first);
  // What is named is taken though it is absent: it must not become another version in silence.
  assert.equal(find({ setting: "/absent/optlang", folders: [here] }).command, "/absent/optlang");
});

async function failure(command, cwd) {
  let end;
  const ended = new Promise((resolve) => {
    end = resolve;
  });
  try {
    await start({ command, from: "the test" }, { cwd, onEnd: end });
  } catch (error) {
    return error;
  }
  return ended;
}

test("a command that is absent is told with what installs it", async (t) => {
  const error = await failure("/absent/optlang", folder(t));
  assert.ok(error instanceof StartError);
  assert.match(error.message, /no command `\/absent\/optlang` \(from the test\)/);
  assert.equal(error.install, 'pip install "optlang-dsl[lsp]"');
});

test("a command that may not be executed is told as such", { skip: !POSIX }, async (t) => {
  const here = folder(t);
  const error = await failure(here, here);
  assert.ok(error instanceof StartError);
  assert.match(error.message, /may not be executed/);
});

test("an optlang without its server is told with what installs it, in optlang's own words", async (t) => {
  const command = process.env.OPTLANG_WITHOUT_SERVER;
  if (command === undefined) {
    t.skip("OPTLANG_WITHOUT_SERVER names no optlang without pygls");
    return;
  }
  const error = await failure(command, folder(t));
  assert.ok(error instanceof StartError);
  assert.match(error.message, /the language server needs pygls/);
  assert.equal(error.install, 'pip install "optlang-dsl[lsp]"');
});

test("an end without a word of optlang is told by its exit code and last line", { skip: !POSIX }, async (t) => {
  const here = folder(t);
  const error = await failure(program(path.join(here, "optlang"), "echo one >&2; echo two >&2; exit 7"), here);
  assert.match(error.message, /ended with exit code 7: two/);
  assert.equal(error.install, undefined);
  const old = await failure(program(path.join(here, "old"), "echo \"Error: No such command 'lsp'.\" >&2; exit 2"), here);
  assert.match(old.message, /has no `lsp`/);
  assert.match(old.install, /--upgrade/);
});

test("the server answers, and ends without a fault when it is told to", async (t) => {
  const command = process.env.OPTLANG;
  if (command === undefined) {
    t.skip("OPTLANG names no optlang");
    return;
  }
  let end;
  const ended = new Promise((resolve) => {
    end = resolve;
  });
  const server = await start({ command, from: "the test" }, { cwd: folder(t), onEnd: end });
  const said = (message) => {
    const body = JSON.stringify({ jsonrpc: "2.0", ...message });
    server.stdin.write(`Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  };
  const answer = new Promise((resolve) => {
    let text = "";
    server.stdout.on("data", (data) => {
      text += data;
      if (text.includes('"capabilities"')) {
        resolve(text);
      }
    });
  });
  said({ id: 1, method: "initialize", params: { processId: null, rootUri: null, capabilities: {} } });
  assert.match(await answer, /"renameProvider"/);
  said({ id: 2, method: "shutdown" });
  said({ method: "exit" });
  assert.equal(await ended, undefined);
});
