// Bundles the extension into one file, and writes beside it under which licences the packages in it stand.

"use strict";

const fs = require("node:fs");
const path = require("node:path");
const esbuild = require("esbuild");

const NOTICES = path.join("dist", "NOTICES.txt");

/** The folders of the packages that went into the bundle. */
function packages(metafile) {
  const found = new Set();
  for (const file of Object.keys(metafile.inputs)) {
    const inside = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(file.replaceAll("\\", "/"));
    if (inside !== null) {
      found.add(inside[1]);
    }
  }
  return [...found].sort();
}

/** What is to be said of one package: its name, version and licence, whole. */
function notice(folder) {
  const { name, version, license } = JSON.parse(fs.readFileSync(path.join(folder, "package.json"), "utf8"));
  const file = fs.readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (file === undefined) {
    throw new Error(`${name} comes without its licence`);
  }
  return `${name} ${version} (${license})\n\n${fs.readFileSync(path.join(folder, file), "utf8").trim()}\n`;
}

const made = esbuild.buildSync({
  entryPoints: ["src/extension.js"], outfile: "dist/extension.js", bundle: true, minify: true, platform: "node",
  target: "node20", format: "cjs", external: ["vscode"], metafile: true, logLevel: "info",
});
fs.writeFileSync(NOTICES, packages(made.metafile).map(notice).join(`\n${"-".repeat(80)}\n\n`));
