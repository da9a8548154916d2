// Which command starts the language server, and what to say where it cannot start. Knows nothing of the editor.

"use strict";

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const WINDOWS = process.platform === "win32";
const MOST = 4000; // characters of what the server says that are kept, from its end

/** `optlang` in an environment's folder of commands; undefined where it is not there. */
function inEnvironment(folder) {
  const file = path.join(folder, WINDOWS ? "Scripts" : "bin", WINDOWS ? "optlang.exe" : "optlang");
  return fs.existsSync(file) ? file : undefined;
}

/** `optlang` beside an interpreter; undefined where there is none. */
function besideInterpreter(python) {
  const file = path.join(path.dirname(python), WINDOWS ? "optlang.exe" : "optlang");
  return fs.existsSync(file) ? file : undefined;
}

/** What the setting `optlang.path` means: `~` and `${workspaceFolder}` are put in, a relative path is the folder's. */
function expanded(setting, folder) {
  let text = setting.trim().replace(/^~(?=$|[\\/])/, os.homedir());
  if (folder !== undefined) {
    text = text.replaceAll("${workspaceFolder}", folder);
    const isPath = text.includes("/") || text.includes("\\");
    if (isPath && !path.isAbsolute(text)) {
      text = path.join(folder, text);
    }
  }
  return text;
}

/**
 * The command to start and why this one, as {command, from}.
 *
 * The setting goes before all; then an environment in the open folders, then the interpreter that is selected in the
 * Python extension, then whatever `optlang` is on PATH. What the setting names is taken though it may not be there: a
 * silent second choice would be another version than the one that was asked for.
 */
function find({ setting = "", folders = [], interpreter = undefined }) {
  if (setting.trim() !== "") {
    return { command: expanded(setting, folders[0]), from: "the setting optlang.path" };
  }
  for (const folder of folders) {
    for (const name of [".venv", "venv"]) {
      const command = inEnvironment(path.join(folder, name));
      if (command !== undefined) {
        return { command, from: `the environment ${name} of ${folder}` };
      }
    }
  }
  const beside = interpreter === undefined ? undefined : besideInterpreter(interpreter);
  if (beside !== undefined) {
    return { command: beside, from: "the interpreter that is selected" };
  }
  return { command: "optlang", from: "PATH" };
}

/** What went wrong, for the user: `message` in one sentence, `install` what to type in a terminal, if that would help. */
class StartError extends Error {
  constructor(message, install = undefined) {
    super(message);
    this.install = install;
  }
}

/** What to say of a command that could not be started at all. */
function notStarted(error, { command, from }) {
  if (error.code === "ENOENT") {
    return new StartError(
      `There is no command \`${command}\` (from ${from}). Install optlang, or name the command in the setting optlang.path.`,
      'pip install "optlang-dsl[lsp]"',
    );
  }
  if (error.code === "EACCES") {
    return new StartError(`\`${command}\` (from ${from}) may not be executed: it is a folder, or not marked executable.`);
  }
  return new StartError(`\`${command} lsp\` (from ${from}) did not start: ${error.message}`);
}

/** What to say of a server that ended before it was asked to; `said` is its standard error. */
function ended(code, signal, said, { command, from }) {
  const lines = said.trim().split("\n");
  const told = lines.find((line) => line.startsWith("error: "));
  const help = lines.map((line) => /^\s*= help: (pip install .+)$/.exec(line)).find((found) => found);
  if (told !== undefined && help) {
    // What optlang itself says of a missing package: its extra.
    return new StartError(`optlang: ${told.slice("error: ".length)} (\`${command}\`, from ${from}).`, help[1]);
  }
  if (/No such command 'lsp'/.test(said)) {
    return new StartError(
      `\`${command}\` (from ${from}) has no \`lsp\`: it is too old, or another program of this name.`,
      'pip install --upgrade "optlang-dsl[lsp]"',
    );
  }
  const how = signal ? `was ended by ${signal}` : `ended with exit code ${code}`;
  const last = lines[lines.length - 1];
  return new StartError(`\`${command} lsp\` (from ${from}) ${how}${last ? `: ${last}` : ""}`);
}

/**
 * Start the server in `cwd`; gives its process once it runs, and calls `onEnd` with a StartError or undefined (for an
 * end without a fault) when it ends. Rejects with a StartError where there is nothing to start.
 */
function start(found, { cwd, onEnd }) {
  return new Promise((resolve, reject) => {
    // On Windows a command without a suffix may be a script of the shell (`optlang.cmd`): such are named in the setting.
    const server = spawn(found.command, ["lsp"], { cwd, stdio: ["pipe", "pipe", "pipe"] });
    let said = "";
    server.stderr.on("data", (data) => {
      said = (said + data).slice(-MOST);
    });
    // A server that is gone while something is written to it says so by its exit code.
    server.stdin.on("error", () => {});
    server.once("error", (error) => reject(notStarted(error, found)));
    server.once("spawn", () => resolve(server));
    server.once("close", (code, signal) => {
      if (server.pid !== undefined) {
        onEnd(code === 0 ? undefined : ended(code, signal, said, found));
      }
    });
  });
}

module.exports = { StartError, ended, expanded, find, notStarted, start };
