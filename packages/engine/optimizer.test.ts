// The optimizer as a job uses it, by name: its state against the bytes that bitsandbytes' AdamW8bit wrote, which
// tensors stay in 32 bits, and that paging changes where the state lies and nothing else.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { after, describe, test } from "node:test";
import { memory, Tensor } from "#native";
import { optimizers, type TrainRecipe } from "#packages/data";
import { type GoldenTensor, readGolden } from "../../test/support/safetensors-golden.ts";
import { numbers, seeded } from "../../test/support/tensors.ts";
import { Adamw } from "./optimizer.ts";
import { freeParameter, makeParameter, type Parameter } from "./parameters.ts";

// Beside the addon: a temporary folder of the system may be memory.
const builds = new URL("../../build/", import.meta.url).pathname;
mkdirSync(builds, { recursive: true });
const pagingDir = mkdtempSync(`${builds}paging-`);
after(() => rmSync(pagingDir, { recursive: true }));

const golden = readGolden(new URL("../../test/golden/adamw8bit.safetensors", import.meta.url));
const hyper = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01, maxGradNorm: 0, pagingDir };
const lr = 1e-3;

function get(name: string): GoldenTensor {
  const t = golden.get(name);
  assert.ok(t, `golden file has no ${name}`);
  return t;
}

const floats = (values: Float32Array) => new Uint8Array(values.slice().buffer);

function parameterOf(start: Uint8Array): Parameter {
  const at = { device: "cpu", kind: "adapter" } as const;
  return makeParameter("p", Tensor.fromBytes(start, "float32", [start.byteLength / 4], at));
}

for (const optimizer of ["adamw_8bit", "paged_adamw_8bit"] as const) {
  test(`${optimizer}: six steps have bitsandbytes' bytes; a tensor below 4096 elements stays in 32 bits`, () => {
    const names = ["p5000", "small_4095"];
    const parameters = names.map((name) => parameterOf(get(`${name}.p0`).bytes));
    const adamw = new Adamw(parameters, { ...hyper, optimizer });
    for (let step = 1; step <= 6; step++) {
      names.forEach((name, i) => {
        parameters[i]!.grad.write(get(`${name}.g${step - 1}`).bytes);
      });
      adamw.update(lr);
      const { m, v, mAbsmax, vAbsmax } = adamw.stateOf(parameters[0]!)!;
      const parts = { state1: m, state2: v, absmax1: mAbsmax, absmax2: vAbsmax };
      for (const [part, t] of Object.entries(parts)) {
        assert.ok(Buffer.compare(t!.read(), get(`p5000.${part}.${step}`).bytes) === 0, `${part} after step ${step}`);
      }
    }
    const small = adamw.stateOf(parameters[1]!)!;
    assert.deepEqual([small.m.dtype, small.mAbsmax, small.vAbsmax], ["float32", null, null]);
    assert.deepEqual(small.m.read(), new Uint8Array(get("small_4095.state1.6").bytes));
    names.forEach((name, i) => {
      const got = parameters[i]!.value.toFloat32();
      const want = new Float32Array(get(`${name}.p6`).bytes.slice().buffer);
      const off = got.reduce((most, value, k) => Math.max(most, Math.abs(value - want[k]!)), 0);
      assert.ok(off <= 1e-8, `${name}: parameters differ by ${off}`);
    });
    adamw.free();
    parameters.forEach(freeParameter);
  });
}

/** Parameters after three steps with `optimizer`, and what the state took. */
function threeSteps(optimizer: TrainRecipe["optimizer"]) {
  const rng = seeded(3);
  const parameters = [50_000, 100].map((count) => parameterOf(floats(numbers(rng, count))));
  const before = memory.report();
  const adamw = new Adamw(parameters, { ...hyper, optimizer });
  const taken = memory.report();
  for (let step = 0; step < 3; step++) {
    for (const p of parameters) p.grad.write(floats(numbers(rng, p.value.count)));
    adamw.update(lr);
  }
  const values = parameters.map((p) => p.value.read());
  adamw.free();
  parameters.forEach(freeParameter);
  return {
    values,
    resident: taken.current.optimizer - before.current.optimizer,
    paged: taken.paged - before.paged,
  };
}

describe("paged state", () => {
  const results = new Map(optimizers.map((name) => [name, threeSteps(name)]));
  const of = (name: TrainRecipe["optimizer"]) => results.get(name)!;

  test("gives the bits of unpaged state", () => {
    assert.deepEqual(of("paged_adamw_32bit").values, of("adamw_32bit").values);
    assert.deepEqual(of("paged_adamw_8bit").values, of("adamw_8bit").values);
    assert.notDeepEqual(of("adamw_8bit").values, of("adamw_32bit").values);
  });

  test("is counted as paged, apart from what is resident", () => {
    const pages = (bytes: number) => Math.ceil(bytes / 4096) * 4096;
    assert.equal(of("adamw_32bit").paged, 0);
    assert.ok(of("adamw_32bit").resident >= 2 * 4 * 50_000);
    assert.equal(of("paged_adamw_32bit").paged, 2 * pages(4 * 50_000));
    assert.ok(of("paged_adamw_32bit").resident < 2048, "only the small tensor's");
    assert.equal(of("paged_adamw_8bit").paged, 2 * pages(50_000));
    assert.ok(of("adamw_8bit").resident < 0.3 * of("adamw_32bit").resident);
    assert.equal(memory.report().paged, 0, "given back");
  });

  test("leaves no file behind that has a name", () => {
    const parameter = parameterOf(floats(new Float32Array(10_000)));
    const adamw = new Adamw([parameter], { ...hyper, optimizer: "paged_adamw_32bit" });
    assert.deepEqual(readdirSync(pagingDir), []);
    adamw.free();
    freeParameter(parameter);
  });

  test("is refused where there is no folder, and nothing is left in memory then", () => {
    const parameter = parameterOf(floats(new Float32Array(10_000)));
    const before = memory.report().current;
    const options = { ...hyper, optimizer: "paged_adamw_32bit", pagingDir: "/no/such/folder" } as const;
    assert.throws(() => new Adamw([parameter], options), {
      code: "FAILED_PRECONDITION",
      message: /\/no\/such\/folder/,
    });
    assert.deepEqual(memory.report().current, before);
    freeParameter(parameter);
  });
});
