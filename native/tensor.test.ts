import assert from "node:assert/strict";
import { test } from "node:test";
import { memory, setThreadCount, Tensor, threadCount, zeroAll } from "#native";

const at = { device: "cpu", kind: "workspace" } as const;
const of = (value: number, count = 1) => Tensor.fromFloat32(new Float32Array(count).fill(value), [count], at);
const inUse = () => memory.report().current.workspace;

test("a handle is refused once it is free, and those around it are what they were", () => {
  const before = inUse();
  const all = Array.from({ length: 300 }, (_, i) => of(i));
  const [even, odd] = [0, 1].map((rest) => all.filter((_, i) => i % 2 === rest)) as [Tensor[], Tensor[]];
  for (const t of even) t.free();
  const later = Array.from({ length: 300 }, (_, i) => of(-i));
  for (const t of even) {
    assert.throws(() => t.read(), { code: "INVALID_ARGUMENT", message: /handle \d+ is not live: freed/ });
    assert.throws(() => t.free(), { code: "INVALID_ARGUMENT", message: /handle \d+ is not live: freed/ });
  }
  odd.forEach((t, i) => {
    assert.deepEqual([...t.toFloat32()], [2 * i + 1]);
  });
  assert.equal(new Set([...all, ...later].map((t) => t.handle)).size, 600);
  Tensor.freeAll([...odd, ...later]);
  assert.equal(inUse(), before);
});

test("all are freed, or none when one is free already", () => {
  const before = inUse();
  const [a, b] = [of(1), of(2)];
  a.free();
  assert.throws(() => Tensor.freeAll([b, a]), { code: "INVALID_ARGUMENT", message: /is not live/ });
  assert.equal(b.isFree, false);
  assert.deepEqual([...b.toFloat32()], [2]);
  Tensor.freeAll([b]);
  assert.equal(b.isFree, true);
  Tensor.freeAll([]);
  assert.equal(inUse(), before);
});

test("tensors of any size are cleared together, with any number of threads", () => {
  const threads = threadCount();
  for (const count of [1, 2, 3]) {
    setThreadCount(count);
    const all = [200_003, 1, 0, 65_536, 7].map((n) => of(5, n));
    const other = of(5, 9);
    zeroAll(all);
    for (const t of all) assert.ok(t.toFloat32().every((v) => v === 0));
    assert.ok(other.toFloat32().every((v) => v === 5));
    Tensor.freeAll([...all, other]);
  }
  setThreadCount(threads);
});
