import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { byteLengthOf, storedDTypes } from "./dtypes.ts";
import { writeCall } from "./files.ts";
import { openSafetensors } from "./safetensors.ts";
import type { TensorSpec } from "./safetensors-header.ts";
import { SafetensorsSpool, SafetensorsWriter } from "./safetensors-writer.ts";

const goldenFiles = [
  goldenPath("llama_tied_nf4_dq", "model.safetensors"),
  goldenPath("llama_untied_bf16_sharded", "model-00002-of-00003.safetensors"),
  goldenPath("train", "qlora_adapter", "adapter_model.safetensors"),
];

function specsOf(path: string): (TensorSpec & { bytes: Uint8Array })[] {
  using file = openSafetensors(path);
  return file.names().map((name) => ({ name, ...file.info(name), bytes: file.read(name) }));
}

test("a rewritten golden file is the same file byte for byte, in any order of writes", (t) => {
  const folder = temporaryFolder(t);
  for (const golden of goldenFiles) {
    const specs = specsOf(golden).reverse();
    const path = join(folder, "a.safetensors");
    const writer = new SafetensorsWriter(path, specs);
    for (const { name, bytes } of specs) {
      writer.write(name, bytes.subarray(0, 5));
      writer.write(name, bytes.subarray(5));
    }
    writer.finish();
    assert.ok(readFileSync(path).equals(readFileSync(golden)), golden);

    const spool = new SafetensorsSpool(join(folder, "b.safetensors"));
    for (const spec of specs) spool.add(spec, spec.bytes);
    spool.finish();
    assert.ok(readFileSync(join(folder, "b.safetensors")).equals(readFileSync(golden)), golden);
  }
  assert.deepEqual(readdirSync(folder).sort(), ["a.safetensors", "b.safetensors"]);
});

test("what is written is read back, for any names, dtypes and shapes", (t) => {
  const path = join(temporaryFolder(t), "a.safetensors");
  const tensor = fc.record({
    name: fc.string({ unit: "grapheme", minLength: 1 }).filter((n) => n !== "__metadata__"),
    dtype: fc.constantFrom(...storedDTypes),
    shape: fc.array(fc.nat(5), { maxLength: 3 }),
  });
  const check = fc.property(
    fc.uniqueArray(tensor, { selector: (s) => s.name, maxLength: 6 }),
    fc.nat(255),
    (specs, v) => {
      const writer = new SafetensorsWriter(path, specs);
      for (const { name, dtype, shape } of specs)
        writer.write(name, new Uint8Array(byteLengthOf(dtype, shape)).fill(v));
      writer.finish();
      using file = openSafetensors(path);
      assert.deepEqual(file.names().sort(), specs.map((s) => s.name).sort());
      for (const { name, dtype, shape } of specs) {
        assert.deepEqual([file.info(name).dtype, file.info(name).shape], [dtype, shape]);
        assert.ok(file.read(name).every((byte) => byte === v));
      }
    },
  );
  fc.assert(check, { numRuns: 60 });
});

test("missing, surplus and wrongly sized tensors are errors, and leave nothing behind", (t) => {
  const folder = temporaryFolder(t);
  const specs: TensorSpec[] = [{ name: "a", dtype: "float32", shape: [2] }];
  const make = () => new SafetensorsWriter(join(folder, "a"), specs);
  assert.throws(() => make().finish(), /tensor a: expected 8 bytes, got 0/);
  const writer = make();
  assert.throws(() => writer.write("b", new Uint8Array(1)), /tensor b is not in the plan/);
  assert.throws(() => writer.write("a", new Uint8Array(9)), /tensor a: expected 8 bytes, got 9/);
  writer.abort();
  assert.throws(() => new SafetensorsWriter(join(folder, "a"), [...specs, ...specs]), /listed twice/);
  const spool = new SafetensorsSpool(join(folder, "a"));
  assert.throws(() => spool.add(specs[0]!, new Uint8Array(7)), /expected 8 bytes, got 7/);
  spool.abort();
  assert.deepEqual(readdirSync(folder), []);
});

test("a disk that fills up leaves the old version and no litter, wherever it fills up", (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, "a.safetensors");
  writeFileSync(path, "the old version");
  const specs = specsOf(goldenFiles[2]!);
  for (const capacity of [0, 100, 5_000, 78_000]) {
    let used = 0;
    const write: typeof writeCall = (fd, bytes, offset, length, position) => {
      const room = Math.min(length, capacity - used);
      if (room <= 0) throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
      used += room;
      return writeCall(fd, bytes, offset, room, position);
    };
    const work = () => {
      const writer = new SafetensorsWriter(path, specs, { write });
      for (const { name, bytes } of specs) writer.write(name, bytes);
      writer.finish();
    };
    assert.throws(work, {
      code: "RESOURCE_EXHAUSTED",
      message: /^\[safetensors_write\] \S+a\.safetensors: ENOSPC: no space left/,
    });
    assert.equal(readFileSync(path, "utf8"), "the old version");
    assert.deepEqual(readdirSync(folder), ["a.safetensors"]);
  }
});

test("the same on a real file system of 64 KiB", (t) => {
  const disk = join(temporaryFolder(t), "disk");
  mkdirSync(disk);
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "none", disk], { stdio: "pipe" });
  } catch {
    return t.skip("no right to mount a tmpfs here; the injected full disk above ran");
  }
  try {
    const path = join(disk, "a.safetensors");
    writeFileSync(path, "the old version");
    const specs = specsOf(goldenFiles[2]!);
    const work = () => {
      const spool = new SafetensorsSpool(path);
      for (const spec of specs) spool.add(spec, spec.bytes);
      spool.finish();
    };
    assert.throws(work, { code: "RESOURCE_EXHAUSTED", message: /a\.safetensors: ENOSPC/ });
    assert.equal(readFileSync(path, "utf8"), "the old version");
    assert.deepEqual(readdirSync(disk), ["a.safetensors"]);
  } finally {
    execFileSync("umount", [disk]);
  }
});
