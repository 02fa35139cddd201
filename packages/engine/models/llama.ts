// A Llama-family model as a page of calls: pre-norm blocks of grouped-query attention with rope and a
// SwiGLU feed-forward layer. Weights may be dense or 4-bit; LoRA rides on any linear layer.
import type { AttentionShape, Tensor } from "#native";
import type { LlamaConfig, LlamaLinear } from "#packages/hub";
import type { DeviceBatch } from "../batch.ts";
import type { LinearLayer, NormLayer } from "../layers.ts";
import { addInPlace, addNorm, attention, embedding, linears, norm, type RopeTables, rope, swiglu } from "../ops.ts";
import type { Parameter } from "../parameters.ts";
import type { Tape, Var } from "../tape.ts";

export interface LlamaBlock {
  inputNorm: NormLayer;
  q: LinearLayer;
  k: LinearLayer;
  v: LinearLayer;
  o: LinearLayer;
  postNorm: NormLayer;
  gate: LinearLayer;
  up: LinearLayer;
  down: LinearLayer;
}

export interface LlamaModel {
  config: LlamaConfig;
  /** [V, C] float32 | bfloat16 | float16. */
  embed: Tensor;
  embedTrained: Parameter | null;
  blocks: LlamaBlock[];
  finalNorm: NormLayer;
  /** [V, C]; shares the embedding's memory when tied. */
  head: LinearLayer;
  tables: RopeTables;
}

/** Makes layers by where they are in a checkpoint, as "model.layers.0" and "self_attn.q_proj". */
export interface LayerMaker {
  linear(block: string, module: LlamaLinear): LinearLayer;
  norm(name: string): NormLayer;
}

/** A block's layers, made in the order of what a step does with them. */
export function makeBlock(index: number, maker: LayerMaker): LlamaBlock {
  const at = `model.layers.${index}`;
  return {
    inputNorm: maker.norm(`${at}.input_layernorm`),
    q: maker.linear(at, "self_attn.q_proj"),
    k: maker.linear(at, "self_attn.k_proj"),
    v: maker.linear(at, "self_attn.v_proj"),
    o: maker.linear(at, "self_attn.o_proj"),
    postNorm: maker.norm(`${at}.post_attention_layernorm`),
    gate: maker.linear(at, "mlp.gate_proj"),
    up: maker.linear(at, "mlp.up_proj"),
    down: maker.linear(at, "mlp.down_proj"),
  };
}

export const linearsOf = (block: LlamaBlock): LinearLayer[] => {
  const { q, k, v, o, gate, up, down } = block;
  return [q, k, v, o, gate, up, down];
};

export function attentionShape(config: LlamaConfig): AttentionShape {
  const { headCount, kvHeadCount, headDim } = config;
  return { heads: headCount, kvHeads: kvHeadCount, scale: 1 / Math.sqrt(headDim), window: 0 };
}

/** How a block attends: within packed documents (training) or over the cache (generation). */
export type Attend = (tape: Tape, q: Var, k: Var, v: Var) => Var;

export function attendDocuments(model: LlamaModel, batch: DeviceBatch): Attend {
  const shape = attentionShape(model.config);
  return (tape, q, k, v) => attention(tape, shape, q, k, v, batch.starts);
}

/** The layers of one x, run together. */
export type RunLinears = <Layers extends LinearLayer[]>(
  tape: Tape,
  x: Var,
  ...layers: Layers
) => { [K in keyof Layers]: Var };

export function trainingLinears(dropoutSeed: number | null): RunLinears {
  return (tape, x, ...layers) => linears(tape, x, layers, dropoutSeed) as { [K in keyof typeof layers]: Var };
}

export function embed(tape: Tape, model: LlamaModel, ids: Tensor): Var {
  return embedding(tape, model.embed, ids, model.embedTrained);
}

/** One block: x [N, C] to [N, C]. */
export function block(
  tape: Tape,
  layer: LlamaBlock,
  x: Var,
  run: RunLinears,
  rotate: { positions: Tensor; tables: RopeTables },
  attend: Attend,
): Var {
  const y = norm(tape, x, layer.inputNorm);
  const [q, k, v] = run(tape, y, layer.q, layer.k, layer.v);
  for (const turned of [q, k]) rope(tape, turned, rotate.positions, rotate.tables);
  const [attended] = run(tape, attend(tape, q, k, v), layer.o);
  const [z, stream] = addNorm(tape, attended, x, layer.postNorm);
  // Recorded before them, so it runs after them: attention's backward pass needs the room.
  const wide: Var[] = [];
  tape.record(() => tape.releaseGradients(wide));
  const [gate, up] = run(tape, z, layer.gate, layer.up);
  const gated = swiglu(tape, gate, up);
  wide.push(gate, up, gated);
  const [fed] = run(tape, gated, layer.down);
  return addInPlace(tape, fed, stream);
}

export function finalNorm(tape: Tape, model: LlamaModel, x: Var): Var {
  return norm(tape, x, model.finalNorm);
}
