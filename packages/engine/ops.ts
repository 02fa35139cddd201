// The differentiable ops: each runs a forward kernel and records its backward one. Shapes are those of
// native/ops/*.h; N rows are tokens of packed documents.
import {
  type AttentionShape,
  activationBackward,
  activationForward,
  add,
  attentionBackward,
  attentionForward,
  embeddingBackward,
  embeddingForward,
  type LinearBackward,
  type LoraArgs,
  linearBackward,
  linearForward,
  normBackward,
  normForward,
  rope as ropeKernel,
  scaleColumns,
  type Tensor,
} from "#native";
import { type LinearLayer, loraArgs, loraGradients, type NormLayer } from "./layers.ts";
import type { Parameter } from "./parameters.ts";
import type { Tape, Var } from "./tape.ts";

const rowsOf = (v: Var): number => v.value.shape[0] ?? 0;

/** y [N, C] = table[ids]. */
export function embedding(tape: Tape, table: Tensor, ids: Tensor, trained: Parameter | null): Var {
  const y = tape.variable(tape.empty([ids.count, table.shape[1] ?? 0]), trained !== null);
  embeddingForward(table, ids, y.value);
  if (trained) tape.record(() => y.grad && embeddingBackward(y.grad, ids, trained.grad));
  return y;
}

/** A layer as it ran on a tape. */
interface LinearRun {
  layer: LinearLayer;
  /** Whether the weight or the adapter has gradients. */
  learns: boolean;
  lora: LoraArgs | null;
  h: Tensor | null;
  y: Var;
}

/**
 * One to four layers of one x: y [N, O] = x Wᵀ + bias + scaling · drop(x) Aᵀ Bᵀ of each. `dropoutSeed` null: no
 * dropout. Their backward steps are one.
 */
export function linears(tape: Tape, x: Var, layers: readonly LinearLayer[], dropoutSeed: number | null): Var[] {
  const rows = rowsOf(x);
  const runs = layers.map((layer): LinearRun => {
    const lora = loraArgs(layer.lora, dropoutSeed);
    const learns = layer.trained !== null || layer.lora?.trained != null;
    const y = tape.variable(tape.empty([rows, layer.weight.out]), x.requiresGrad || learns);
    const h = lora ? tape.empty([rows, lora.a.shape[0] ?? 0], "float32") : null;
    return { layer, learns, lora, h, y };
  });
  linearForward(
    ...runs.map(({ layer: { weight: w, bias }, lora, h, y }) => ({ x: x.value, w, bias, lora, h, y: y.value })),
  );
  for (const { layer, y } of runs) {
    const factor = layer.lora?.factor ?? null;
    if (factor) scaleColumns({ factor, bias: layer.bias, begin: 0, end: rows, y: y.value });
    if (factor && y.requiresGrad) throw new RangeError(`[linear] ${layer.name}: DoRA's factors have no gradient here`);
  }
  if (runs.some(({ y }) => y.requiresGrad)) tape.record(() => linearGradients(tape, x, runs));
  return runs.map(({ y }) => y);
}

function linearGradients(tape: Tape, x: Var, all: readonly LinearRun[]): void {
  const runs = all.filter(({ y }) => y.grad);
  if (runs.length === 0) return;
  const dX = x.requiresGrad ? tape.gradient(x) : null;
  const learns = runs.some((run) => run.learns);
  const late = learns ? x.late : null;
  linearBackward(...runs.map((run) => gradientsOf(run, learns && !late ? x.value : null, { dX })));
  late?.push(() => linearBackward(...runs.map((run) => gradientsOf(run, x.value, null))));
}

/** Those that need x, where there is one, and the `others`, of which that of x goes to dX. */
function gradientsOf(
  { layer, lora, h, y }: LinearRun,
  x: Tensor | null,
  others: { dX: { tensor: Tensor; accumulate: boolean } | null } | null,
): LinearBackward {
  const { dA, dB } = loraGradients(layer.lora);
  return {
    dY: y.grad as Tensor,
    x,
    w: layer.weight,
    lora,
    h,
    dX: others?.dX?.tensor ?? null,
    accumulateDx: others?.dX?.accumulate ?? false,
    dA: x && dA,
    dB: others && dB,
    dW: x && (layer.trained?.weight.grad ?? null),
    dBias: others && (layer.trained?.bias?.grad ?? null),
  };
}

/** y = rmsnorm(x). */
export function norm(tape: Tape, x: Var, layer: NormLayer): Var {
  const y = tape.variable(tape.empty(x.value.shape), x.requiresGrad || layer.trained !== null);
  const rstd = tape.empty([rowsOf(x)], "float32");
  const make = () => normalize(x.value, layer, y.value, rstd);
  make();
  tape.remakable(y, make);
  tape.record(() => y.grad && normGradient(tape, x, x.value, y.grad, rstd, layer, layer.trained));
  return y;
}

function normalize(x: Tensor, { weight, eps }: NormLayer, y: Tensor, rstd: Tensor): void {
  normForward({ kind: "rms", x, residual: null, weight, bias: null, eps, y, sum: null, mean: null, rstd });
}

/** s = x + residual in x's memory, y = rmsnorm(s): [y, s]; x must not be needed by its producer's backward pass. */
export function addNorm(tape: Tape, x: Var, residual: Var, layer: NormLayer): [Var, Var] {
  const requiresGrad = x.requiresGrad || residual.requiresGrad;
  const s = tape.variable(x.value, requiresGrad);
  const y = tape.variable(tape.empty(x.value.shape), requiresGrad || layer.trained !== null);
  const rstd = tape.empty([rowsOf(x)], "float32");
  const { weight, eps, trained } = layer;
  const inputs = { x: x.value, residual: residual.value, weight, bias: null, eps };
  normForward({ kind: "rms", ...inputs, y: y.value, sum: s.value, mean: null, rstd });
  tape.remakable(y, () => normalize(s.value, layer, y.value, rstd));
  tape.record(() => {
    if (!y.grad) return;
    normGradient(tape, s, s.value, y.grad, rstd, layer, trained);
    if (!s.grad) return;
    // One tensor serves both: x's producer runs next and only reads it, before the residual path adds to it.
    tape.addGradient(x, s.grad);
    tape.addGradient(residual, s.grad);
  });
  return [y, s];
}

/** Adds the norm's gradient to that of `s`, in place when there is one already. */
function normGradient(
  tape: Tape,
  s: Var,
  value: Tensor,
  dY: Tensor,
  rstd: Tensor,
  layer: NormLayer,
  trained: Parameter | null,
): void {
  const dSum = s.grad;
  const dS = dSum ?? tape.empty(value.shape);
  const outputs = { dS, dWeight: trained?.grad ?? null, dBias: null };
  normBackward({ kind: "rms", dY, dSum, s: value, weight: layer.weight, mean: null, rstd, ...outputs });
  if (s.requiresGrad) s.grad = dS;
}

/** x += y in x's memory; x must not be needed by its producer's backward pass. */
export function addInPlace(tape: Tape, x: Var, y: Var): Var {
  add(y.value, x.value);
  const sum = tape.variable(x.value, x.requiresGrad || y.requiresGrad);
  tape.record(() => {
    if (!sum.grad) return;
    // Shared as in addNorm: x's producer reads it before anything adds to y's.
    tape.addGradient(x, sum.grad);
    tape.addGradient(y, sum.grad);
  });
  return sum;
}

export interface RopeTables {
  /** [positions, D / 2] float32. */
  cos: Tensor;
  sin: Tensor;
}

/** Rotates x [N, heads · D] in place. */
export function rope(tape: Tape, x: Var, positions: Tensor, tables: RopeTables): Var {
  ropeKernel(x.value, positions, tables.cos, tables.sin);
  tape.record(() => x.grad && ropeKernel(x.grad, positions, tables.cos, tables.sin, true));
  return x;
}

/** Causal attention within each document. */
export function attention(tape: Tape, shape: AttentionShape, q: Var, k: Var, v: Var, starts: Tensor): Var {
  const o = tape.variable(tape.empty(q.value.shape), q.requiresGrad || k.requiresGrad || v.requiresGrad);
  const lse = tape.empty([rowsOf(q), shape.heads], "float32");
  const inputs = { q: q.value, k: k.value, v: v.value, starts, o: o.value, lse };
  attentionForward(shape, inputs);
  tape.record(() => {
    if (!o.grad) return;
    const [dQ, dK, dV] = [q, k, v].map((input) => tape.empty(input.value.shape)) as [Tensor, Tensor, Tensor];
    attentionBackward(shape, { ...inputs, dO: o.grad, dQ, dK, dV });
    tape.addGradient(q, dQ);
    tape.addGradient(k, dK);
    tape.addGradient(v, dV);
  });
  return o;
}

/** silu(g) · u. The backward pass writes the gradients over g and u, and a forgotten y over its own gradient. */
export function swiglu(tape: Tape, g: Var, u: Var): Var {
  const y = tape.variable(tape.empty(g.value.shape), g.requiresGrad || u.requiresGrad);
  const make = () => activationForward("silu", g.value, u.value, y.value);
  make();
  if (y.requiresGrad) tape.remadeByStep(y);
  else tape.remakable(y, make);
  tape.record(() => {
    if (!y.grad) return;
    const { grad, late } = y;
    activationBackward("silu", {
      ...{ dY: grad, g: g.value, u: u.value },
      ...{ dG: g.value, dU: u.value, y: late ? grad : null },
    });
    tape.addGradient(g, g.value);
    tape.addGradient(u, u.value);
    y.value = late ? grad : y.value;
    for (const step of late ?? []) step();
  });
  return y;
}
