// `node scripts/run.mjs TASK [arguments]`: bootstraps, then runs scripts/TASK.ts on the pinned Node.
import { join } from "node:path";
import { runOnPinnedNode } from "./bootstrap.mjs";

const [task, ...rest] = process.argv.slice(2);
runOnPinnedNode(join("scripts", `${task}.ts`), rest);
