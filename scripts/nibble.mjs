#!/usr/bin/env node
// `npx nibble …` and `npm run -s nibble -- …`: bootstraps, then runs the command line on the pinned Node.
import { spawn } from "node:child_process";
import { join } from "node:path";
import { bootstrap, root } from "./bootstrap.mjs";

const node = bootstrap();
const main = join(root, "packages", "cli", "main.ts");
const child = spawn(node, ["--disable-warning=ExperimentalWarning", main, ...process.argv.slice(2)], {
  stdio: "inherit",
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
child.on("exit", (code, signal) => process.exit(signal ? 1 : (code ?? 1)));
