// `node scripts/run.mjs TASK [arguments]`: bootstraps, then runs scripts/TASK.ts on the pinned Node.
import { spawn } from "node:child_process";
import { join } from "node:path";
import { bootstrap, root } from "./bootstrap.mjs";

const [task, ...rest] = process.argv.slice(2);
const node = bootstrap();
const child = spawn(node, ["--disable-warning=ExperimentalWarning", join(root, "scripts", `${task}.ts`), ...rest], {
  stdio: "inherit",
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
child.on("exit", (code, signal) => process.exit(signal ? 1 : (code ?? 1)));
