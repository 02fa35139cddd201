// Tensors that are a file's own bytes: values, counting, what is refused, how long the file stays, who shares it.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { countNonfinite, MappedFile, memory, Tensor } from "#native";

const folder = mkdtempSync(join(tmpdir(), "nibble-mapped-"));
after(() => rmSync(folder, { recursive: true }));

let files = 0;

/** A file of `count` float32: 0, 1, 2, … after `head` bytes. */
function fileOf(count: number, head = 0): { path: string; byteLength: number } {
  const path = join(folder, `${files++}`);
  const values = new Uint8Array(Float32Array.from({ length: count }, (_, i) => i).buffer);
  // What is not yet on the disk would count as dirty.
  writeFileSync(path, Buffer.concat([Buffer.alloc(head, 7), values]), { flush: true });
  return { path, byteLength: head + values.length };
}

function map({ path, byteLength }: { path: string; byteLength: number }): MappedFile {
  const fd = openSync(path, "r");
  try {
    return new MappedFile(fd, byteLength, path);
  } finally {
    closeSync(fd);
  }
}

const weights = () => memory.report().current.weights;

describe("a mapped tensor", () => {
  test("has the file's values on both devices, counts as weights, and keeps a file that is closed and removed", () => {
    const file = fileOf(5000, 12);
    const before = memory.report();
    const mapped = map(file);
    const tensors = (["cpu", "reference"] as const).map((device) =>
      Tensor.mapped(mapped, 12 + 4 * 1000, "float32", [40, 100], device),
    );
    mapped.close();
    mapped.close();
    unlinkSync(file.path);
    const { current, mapped: bytes } = memory.report();
    assert.equal(current.weights - before.current.weights, 2 * 16_000);
    assert.equal(bytes - before.mapped, 2 * 16_000);
    for (const t of tensors) {
      assert.deepEqual(
        t.toFloat32(),
        Float32Array.from({ length: 4000 }, (_, i) => 1000 + i),
      );
      assert.equal(countNonfinite(t), 0);
      t.free();
    }
    assert.deepEqual([weights(), memory.report().mapped], [before.current.weights, before.mapped]);
  });

  test("can be freed while another of the same pages is read", () => {
    using mapped = map(fileOf(20_000));
    const [one, two] = [0, 1].map(() => Tensor.mapped(mapped, 0, "float32", [20_000], "cpu"));
    one?.free();
    assert.equal(two?.toFloat32()[19_999], 19_999);
    two?.free();
  });

  test("is not written to", () => {
    using mapped = map(fileOf(4));
    const t = Tensor.mapped(mapped, 0, "float32", [4], "cpu");
    assert.throws(() => t.write(new Uint8Array(4)), { code: "FAILED_PRECONDITION", message: /a file's/ });
    assert.throws(() => t.zero(), { code: "FAILED_PRECONDITION" });
    t.free();
  });

  test("lies within the file, aligned as its elements are, on the host", () => {
    using mapped = map(fileOf(4));
    const refused = (offset: number, shape: number[], device: "cpu" | "meta" = "cpu") =>
      assert.throws(() => Tensor.mapped(mapped, offset, "float32", shape, device), { code: "INVALID_ARGUMENT" });
    refused(0, [5]);
    refused(4, [4]);
    refused(-4, [1]);
    refused(20, [0]);
    refused(2, [1]);
    refused(0, [4], "meta");
    mapped.close();
    refused(0, [4]);
  });
});

test("a file that is shorter or longer than its header said is refused before anything is read", () => {
  const { path, byteLength } = fileOf(100);
  for (const wrong of [byteLength - 1, byteLength + 1, byteLength + (1 << 20)]) {
    assert.throws(() => map({ path, byteLength: wrong }), { code: "DATA_LOSS", message: /truncated or written to/ });
  }
  assert.throws(() => map({ path, byteLength: 0 }), { code: "INVALID_ARGUMENT" });
});

const onLinux = process.platform === "linux" ? false : "reads /proc";
const child = fileURLToPath(new URL("../test/support/map-a-file.ts", import.meta.url));
const nodeArgs = (...args: string[]) => ["--disable-warning=ExperimentalWarning", child, ...args];

test("a file that is cut while it is in use ends the process, which names it", { skip: onLinux }, () => {
  const { path, byteLength } = fileOf(100_000);
  const { signal, stderr } = spawnSync(process.execPath, nodeArgs(path, String(byteLength), "cut"), {
    encoding: "utf8",
  });
  assert.equal(signal, "SIGBUS");
  assert.match(stderr, new RegExp(`^nibble: ${path}: was cut`, "m"));
});

/** Bytes of the mappings of one file in a process, by the names of /proc/PID/smaps. */
function smapsOf(pid: number, path: string): Record<string, number> {
  const sums: Record<string, number> = {};
  let isOurs = false;
  for (const line of readFileSync(`/proc/${pid}/smaps`, "utf8").split("\n")) {
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) isOurs = line.endsWith(path);
    const [, name = "", kib = "0"] = /^(\w+):\s+(\d+) kB/.exec(line) ?? [];
    if (isOurs && name !== "") sums[name] = (sums[name] ?? 0) + 1024 * Number(kib);
  }
  return sums;
}

test("two processes share the pages", { skip: onLinux }, async (t) => {
  const { path, byteLength } = fileOf(1 << 20);
  const start = async (): Promise<number> => {
    const process_ = spawn(process.execPath, nodeArgs(path, String(byteLength), "wait"), {
      stdio: ["pipe", "pipe", 2],
    });
    t.after(() => process_.kill());
    await new Promise((resolve) => process_.stdout?.once("data", resolve));
    return process_.pid ?? 0;
  };
  const pids = [await start(), await start()];
  for (const pid of pids) {
    const { Shared_Clean: shared = 0, Private_Clean: clean = 0, Private_Dirty: dirty = 0 } = smapsOf(pid, path);
    assert.ok(shared >= byteLength - 4096, `${shared} of ${byteLength} bytes are shared`);
    assert.equal(clean + dirty, 0);
  }
});

test("a file stays whole for who mapped it when another takes its name", () => {
  const file = fileOf(1000);
  using mapped = map(file);
  unlinkSync(file.path);
  writeFileSync(file.path, "another");
  const t = Tensor.mapped(mapped, 0, "float32", [1000], "cpu");
  assert.equal(t.toFloat32()[999], 999);
  t.free();
});
