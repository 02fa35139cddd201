// Imported by every thread of a soak's services. It collects the thread's garbage, and writes what the process takes without
// the memory that V8 holds ready for new objects: into the file NIBBLE_SOAK_KEPT/<pid>, in bytes. V8 takes and gives that back
// when it likes, tens of megabytes of it; what is left is what the process keeps. Only a collection of the last resort gives
// back the pages that V8 has emptied and pooled, 60 MB of them after a minute, which its statistics leave out.
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { getHeapStatistics } from "node:v8";
import { isMainThread } from "node:worker_threads";

const everyMs = 5000;

function look() {
  globalThis.gc({ type: "major", execution: "sync", flavor: "last-resort" });
  if (!isMainThread) return;
  const { total_physical_size: taken, used_heap_size: used } = getHeapStatistics();
  const path = join(process.env.NIBBLE_SOAK_KEPT, String(process.pid));
  writeFileSync(`${path}.part`, String(process.memoryUsage.rss() - taken + used));
  renameSync(`${path}.part`, path);
}

setInterval(look, everyMs).unref();
