// The CUDA device as the facade shows it: on a machine without one every use says why. Kernels are tested in C++, on the
// host (npm run test:native) and on a card (npm run test:gpu).
import assert from "node:assert/strict";
import { test } from "node:test";
import { cuda, memory, Tensor } from "#native";

const reason = cuda.unavailable();
const at = { device: "cuda", kind: "activations" } as const;

test("where there is no device, its use fails with the reason", { skip: reason === "" && "there is one" }, () => {
  assert.equal(cuda.device(), null);
  const expected = { code: "FAILED_PRECONDITION", message: `[cuda] unavailable: ${reason}` };
  assert.throws(() => Tensor.empty("float32", [4], at), expected);
  assert.throws(() => cuda.synchronize(), expected);
  assert.equal(memory.report("cuda").peakTotal, 0);
});

test("where there is a device, bytes go there and come back", { skip: reason }, () => {
  const before = memory.report("cuda").current.activations;
  const bytes = Uint8Array.from({ length: 40_000_000 }, (_, i) => i % 251);
  const t = Tensor.fromBytes(bytes, "uint8", [bytes.length], at);
  assert.ok(memory.report("cuda").current.activations - before >= bytes.length);
  assert.deepEqual(t.read(1_234_567, 1000), bytes.subarray(1_234_567, 1_235_567));
  assert.deepEqual(t.read(), bytes);
  assert.deepEqual(t.zero().read(0, 9), new Uint8Array(9));
  t.free();
});

test("where there is a device, more than it has is an error, and the next call works", { skip: reason }, () => {
  const total = cuda.device()?.totalBytes ?? 0;
  assert.throws(() => Tensor.empty("uint8", [2 * total], at), {
    code: "RESOURCE_EXHAUSTED",
    message: /the device refused \d+ bytes \(activations\), in use \d+/,
  });
  Tensor.empty("uint8", [1 << 20], at).free();
});
