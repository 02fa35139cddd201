// What attention refuses, and in which words.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import {
  type AttentionShape,
  attentionBackward,
  attentionForward,
  kvWrite,
  pagedAttention,
  type Tensor,
} from "#native";
import { Scope } from "../test/support/attention-case.ts";

let scope: Scope;
beforeEach(() => {
  scope = new Scope("cpu");
});
afterEach(() => scope.free());

const shape: AttentionShape = { heads: 4, kvHeads: 2, scale: 0.5, window: 0 };
const float = (rows: number, columns: number): Tensor => scope.of("float32", [rows, columns]);

interface ForwardTensors {
  q: Tensor;
  k: Tensor;
  v: Tensor;
  starts: Tensor;
  o: Tensor;
  lse: Tensor;
}

function forwardTensors(): ForwardTensors {
  const keys = () => float(6, 16);
  return {
    q: float(6, 32),
    k: keys(),
    v: keys(),
    starts: scope.integers([0, 2, 6]),
    o: float(6, 32),
    lse: float(6, 4),
  };
}

function refusesForward(change: Partial<ForwardTensors>, message: string, at: Partial<AttentionShape> = {}): void {
  assert.throws(() => attentionForward({ ...shape, ...at }, { ...forwardTensors(), ...change }), {
    message: `[attention_forward] ${message}`,
    code: "INVALID_ARGUMENT",
    op: "attention_forward",
  });
}

test("attention_forward names what is wrong with the shape", () => {
  refusesForward({}, "heads: expected at least 1, got 0", { heads: 0 });
  refusesForward({}, "kv_heads: expected a divisor of 4 heads, got 3", { kvHeads: 3 });
  refusesForward({}, "kv_heads: expected a divisor of 4 heads, got 0", { kvHeads: 0 });
  refusesForward({}, "scale: expected a finite number, got nan", { scale: Number.NaN });
  refusesForward({}, "window: expected 0 (none) or more, got -1", { window: -1 });
  refusesForward({}, "q: expected rows of 5 heads of one size, got shape [6,32]", { heads: 5, kvHeads: 5 });
  refusesForward({ q: float(1, 4 * 513) }, "q: expected a head size of 1..512, got 513");
});

test("attention_forward names the tensor that does not fit", () => {
  refusesForward({ q: scope.of("float16", [6, 32]) }, "q: expected float32 or bfloat16, got float16");
  refusesForward({ q: scope.of("float32", [6, 4, 8]) }, "q: expected a shape of 2 dimensions, got [6,4,8]");
  refusesForward({ k: float(5, 16) }, "k: expected shape [6,16], got [5,16]");
  refusesForward({ v: scope.of("bfloat16", [6, 16]) }, "v: expected dtype float32, got bfloat16");
  refusesForward({ o: float(6, 31) }, "o: expected shape [6,32], got [6,31]");
  refusesForward({ lse: float(6, 2) }, "lse: expected shape [6,4], got [6,2]");
  const elsewhere = new Scope("reference");
  const v = elsewhere.of("float32", [6, 16]);
  refusesForward({ v }, "v: expected a tensor on cpu, got one on reference");
  elsewhere.free();
});

test("attention_forward refuses starts that do not cover the rows", () => {
  const refuses = (values: number[], message: string) => refusesForward({ starts: scope.integers(values) }, message);
  refuses([1, 6], "starts: expected 0 first, got 1");
  refuses([0, 5, 2, 6], "starts: expected ascending values, got 5 before 2 at index 1");
  refuses([0, 5], "starts: expected 6 (rows of q) last, got 5");
  refuses([0, 7], "starts: expected 6 (rows of q) last, got 7");
  refuses([], "starts: expected at least 1 element, got none");
  refusesForward({ starts: float(1, 3) }, "starts: expected dtype int32, got float32");
});

test("attention_backward checks its tensors too", () => {
  const { q, k, v, starts, o, lse } = forwardTensors();
  const good = { dO: float(6, 32), q, k, v, o, lse, starts, dQ: float(6, 32), dK: float(6, 16), dV: float(6, 16) };
  const refuses = (change: Partial<typeof good>, message: string) =>
    assert.throws(() => attentionBackward(shape, { ...good, ...change }), {
      message: `[attention_backward] ${message}`,
    });
  refuses({ dO: float(6, 16) }, "d_o: expected shape [6,32], got [6,16]");
  refuses({ dQ: float(7, 32) }, "d_q: expected shape [6,32], got [7,32]");
  refuses({ dK: float(6, 32) }, "d_k: expected shape [6,16], got [6,32]");
  refuses({ dV: scope.of("bfloat16", [6, 16]) }, "d_v: expected dtype float32, got bfloat16");
  refuses({ starts: scope.integers([0, 8]) }, "starts: expected 6 (rows of q) last, got 8");
});

test("paged_attention refuses rows, positions and pages that do not exist", () => {
  const caches = () => scope.of("float32", [3, 2, 4, 8]);
  const good = {
    q: float(2, 32),
    kCache: caches(),
    vCache: caches(),
    blockTable: scope.integers([0, 2, 1, -1], [2, 2]),
    sequence: scope.integers([0, 1]),
    position: scope.integers([7, 3]),
    o: float(2, 32),
  };
  pagedAttention(shape, good);
  const refuses = (change: Partial<typeof good>, message: string, window = 0) =>
    assert.throws(() => pagedAttention({ ...shape, window }, { ...good, ...change }), {
      message: `[paged_attention] ${message}`,
    });
  refuses({ sequence: scope.integers([0, 2]) }, "sequence: expected 0..1, got 2 at index 1");
  refuses({ sequence: scope.integers([-1, 1]) }, "sequence: expected 0..1, got -1 at index 0");
  refuses({ position: scope.integers([8, 3]) }, "position: expected 0..7, got 8 at index 0");
  refuses({ position: scope.integers([7, -1]) }, "position: expected 0..7, got -1 at index 1");
  refuses({ position: scope.integers([7, 4]) }, "block_table: expected 0..2, got -1 at [1,1]");
  refuses({ blockTable: scope.integers([3, 2, 1, -1], [2, 2]) }, "block_table: expected 0..2, got 3 at [0,0]");
  refuses({ sequence: scope.integers([0]) }, "sequence: expected 2 elements, got 1 in shape [1]");
  refuses({ kCache: scope.of("float32", [3, 4, 16]) }, "k_cache: expected shape [pages,2,page,8], got [3,4,16]");
  refuses(
    { vCache: scope.of("float32", [3, 2, 5, 8]) },
    "v_cache: expected the shape of k_cache, [3,2,4,8], got [3,2,5,8]",
  );
  // Pages that lie before every window may be gone.
  const gone = scope.integers([-1, 2, 1, -1], [2, 2]);
  pagedAttention({ ...shape, window: 4 }, { ...good, blockTable: gone });
  refuses({ blockTable: gone }, "block_table: expected 0..2, got -1 at [0,0]", 5);
});

test("kv_write refuses slots outside the cache", () => {
  const cache = () => scope.of("bfloat16", [2, 2, 4, 3]);
  const rows = (n: number) => scope.of("bfloat16", [n, 6]);
  const [k, v] = [cache(), cache()];
  const refuses = (call: () => void, message: string) => assert.throws(call, { message: `[kv_write] ${message}` });
  refuses(() => kvWrite(rows(2), rows(2), scope.integers([0, 8]), k, v), "slot: expected 0..7, got 8 at index 1");
  refuses(() => kvWrite(rows(1), rows(1), scope.integers([-1]), k, v), "slot: expected 0..7, got -1 at index 0");
  refuses(
    () => kvWrite(rows(2), rows(1), scope.integers([0, 1]), k, v),
    "v: expected the shape of k, [2,6], got [1,6]",
  );
  refuses(() => kvWrite(rows(2), rows(2), scope.integers([0]), k, v), "slot: expected 2 elements, got 1 in shape [1]");
  const wide = scope.of("bfloat16", [2, 2, 4, 4]);
  refuses(
    () => kvWrite(rows(1), rows(1), scope.integers([0]), wide, v),
    "k_cache: expected shape [pages,K,page,D] with K * D = 6, got [2,2,4,4]",
  );
});
