// Starts `optlang lsp` for files of optlang, and says in words what is missing where that does not work.

"use strict";

const path = require("node:path");
const vscode = require("vscode");
const { CloseAction, ErrorAction, LanguageClient } = require("vscode-languageclient/node");
const { StartError, find, start } = require("./command");

const RESTARTS = 3; // in as many minutes; then the user is told

/** The server of this window: one client at a time, and what it says. */
class Server {
  constructor() {
    this.output = vscode.window.createOutputChannel("optlang", { log: true });
    this.client = undefined;
    this.failure = undefined;
    this.leaving = false; // whether the server was asked to end
    this.stands = false; // whether it has answered
    this.ends = [];
    this.gone = Promise.resolve();
    this.turn = Promise.resolve();
  }

  /** Stop what runs and start anew; restarts that come together are done one after the other. */
  restart() {
    this.turn = this.turn.then(async () => {
      await this.stop();
      await this.begin();
    });
    return this.turn;
  }

  async begin() {
    if (!vscode.workspace.isTrusted) {
      this.output.info("the folder is not trusted: the language server is not started");
      return;
    }
    this.failure = undefined;
    this.leaving = false;
    this.stands = false;
    const found = await command();
    this.output.info(`${found.command} lsp, from ${found.from}`);
    const client = new LanguageClient("optlang", "optlang", () => this.process(found), {
      documentSelector: [{ language: "optlang", scheme: "file" }, { language: "optlang", scheme: "untitled" }],
      outputChannel: this.output,
      errorHandler: {
        error: () => ({ action: ErrorAction.Continue }),
        closed: () => this.closed(),
      },
      initializationFailedHandler: () => false,
    });
    this.client = client;
    try {
      await client.start();
      this.stands = true;
    } catch (error) {
      if (this.client === client) {
        this.client = undefined;
      }
      // What the server has said of it is known with its end, which comes after that of the connection.
      await this.gone;
      this.tell(this.failure ?? error);
    }
  }

  process(found) {
    let left;
    const gone = new Promise((done) => {
      left = done;
    });
    const onEnd = (failure) => {
      this.failure = failure;
      left();
    };
    const process = start(found, { cwd: folders()[0], onEnd });
    process.then(() => {
      this.gone = gone;
    }, () => {});
    return process;
  }

  /** What the client shall do when the connection is gone: nothing before it ever stood, else start again, three times. */
  async closed() {
    await this.gone;
    if (this.leaving || !this.stands) {
      return { action: CloseAction.DoNotRestart, handled: true };
    }
    const now = Date.now();
    this.ends = [...this.ends.filter((at) => now - at < RESTARTS * 60_000), now];
    if (this.ends.length <= RESTARTS) {
      return { action: CloseAction.Restart, handled: true };
    }
    this.tell(this.failure ?? new StartError("The language server ended again and again."));
    return { action: CloseAction.DoNotRestart, handled: true };
  }

  async stop() {
    this.leaving = true;
    const client = this.client;
    this.client = undefined;
    if (client !== undefined) {
      await client.dispose().catch((error) => this.output.warn(String(error)));
    }
  }

  async tell(error) {
    this.output.error(error.message);
    const install = error instanceof StartError ? error.install : undefined;
    const choices = [...(install === undefined ? [] : ["Copy the command"]), "Open the setting", "Show the log"];
    const text = install === undefined ? error.message : `${error.message} In a terminal: ${install}`;
    const chosen = await vscode.window.showErrorMessage(text, ...choices);
    if (chosen === "Copy the command") {
      await vscode.env.clipboard.writeText(install);
    } else if (chosen === "Open the setting") {
      await vscode.commands.executeCommand("workbench.action.openSettings", "optlang.path");
    } else if (chosen === "Show the log") {
      this.output.show();
    }
  }
}

/** The folders on disk that are open; without any, the one of the file that is looked at. */
function folders() {
  const open = (vscode.workspace.workspaceFolders ?? []).map((folder) => folder.uri).filter((uri) => uri.scheme === "file");
  if (open.length > 0) {
    return open.map((uri) => uri.fsPath);
  }
  const shown = vscode.window.activeTextEditor?.document.uri;
  return shown?.scheme === "file" ? [path.dirname(shown.fsPath)] : [];
}

async function command() {
  const setting = vscode.workspace.getConfiguration("optlang").get("path", "");
  return find({ setting, folders: folders(), interpreter: await interpreter() });
}

/** The interpreter that is selected in Microsoft's Python extension; undefined without it. */
async function interpreter() {
  const extension = vscode.extensions.getExtension("ms-python.python");
  if (extension === undefined) {
    return undefined;
  }
  try {
    const api = await extension.activate();
    const chosen = api.environments.getActiveEnvironmentPath();
    return (await api.environments.resolveEnvironment(chosen))?.executable.uri?.fsPath;
  } catch {
    return undefined; // an older or newer Python extension: PATH is asked then
  }
}

let server;

async function activate(context) {
  server = new Server();
  context.subscriptions.push(
    server.output,
    vscode.commands.registerCommand("optlang.restart", () => server.restart()),
    vscode.commands.registerCommand("optlang.log", () => server.output.show()),
    vscode.workspace.onDidGrantWorkspaceTrust(() => server.restart()),
    vscode.workspace.onDidChangeConfiguration((change) => {
      if (change.affectsConfiguration("optlang.path")) {
        return server.restart();
      }
    }),
  );
  await server.restart();
}

async function deactivate() {
  await server?.stop();
}

module.exports = { activate, deactivate };
