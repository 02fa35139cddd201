import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { temporaryFolder } from "../../test/support/folders.ts";
import { availableMemory } from "./available-memory.ts";

/** A system of these files. */
function systemOf(t: TestContext, files: Record<string, string>) {
  const root = temporaryFolder(t);
  const all = { "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n", ...files };
  for (const [name, text] of Object.entries(all)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), text);
  }
  return { proc: join(root, "proc"), cgroup: join(root, "cgroup") };
}

test("the machine's own, where nothing limits more", (t) => {
  const system = systemOf(t, { "proc/self/cgroup": "0::/a\n", "cgroup/a/memory.max": "max\n" });
  assert.deepEqual(availableMemory(null, 0, system), { bytes: 8000 * 1024, by: "the machine" });
});

test("a control group's limit, that of a group around it, and what it could drop", (t) => {
  const group = {
    "proc/self/cgroup": "0::/a/b\n",
    "cgroup/a/b/memory.max": "max\n",
    "cgroup/a/b/memory.current": "100\n",
    "cgroup/a/memory.max": "5000\n",
    "cgroup/a/memory.current": "3000\n",
    "cgroup/a/memory.stat": "anon 1\ninactive_file 500\n",
  };
  assert.deepEqual(availableMemory(null, 0, systemOf(t, group)), { bytes: 2500, by: "the control group" });
  const first = {
    "proc/self/cgroup": "4:cpu,memory:/host/only\n0::/\n",
    "cgroup/memory/memory.limit_in_bytes": "4000\n",
    "cgroup/memory/memory.usage_in_bytes": "1000\n",
    "cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 10\n",
  };
  assert.deepEqual(availableMemory(null, 0, systemOf(t, first)), { bytes: 3010, by: "the control group" });
});

test("resource limits less what is taken", (t) => {
  const limits = (lines: string) => ({
    "proc/self/limits": `Limit  Soft Limit  Hard Limit  Units\n${lines}\n`,
    "proc/self/status": "VmSize:\t    900 kB\nVmData:\t    300 kB\n",
  });
  const data = limits(`Max data size             1024000              unlimited            bytes`);
  assert.equal(availableMemory(null, 0, systemOf(t, data)).bytes, 1024000 - 300 * 1024);
  const space = limits(`Max address space         1024000              unlimited            bytes`);
  assert.equal(availableMemory(null, 0, systemOf(t, space)).bytes, 1024000 - 900 * 1024);
  const none = limits("Max address space         unlimited            unlimited            bytes");
  assert.equal(availableMemory(null, 0, systemOf(t, none)).by, "the machine");
});

test("memory_limit is the process's, so what it takes already counts", (t) => {
  assert.deepEqual(availableMemory(1000, 400, systemOf(t, {})), { bytes: 600, by: "memory_limit" });
  assert.equal(availableMemory(1000, 1400, systemOf(t, {})).bytes, 0);
});

test("this machine has some", () => {
  assert.ok(availableMemory(null, process.memoryUsage.rss()).bytes > 0);
});
