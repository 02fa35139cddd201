// Full-parameter training: every weight becomes a float32 parameter. It is the 16-bit baseline of the
// paper's claim, and how the base model of the quickstart is made.
import { normalFill, Tensor } from "#native";
import { expect } from "#packages/errors";
import { type LlamaConfig, llamaModules } from "#packages/hub";
import type { LinearLayer, NormLayer } from "./layers.ts";
import { denseWeight } from "./model-load.ts";
import { type LlamaBlock, type LlamaModel, linearsOf } from "./models/llama.ts";
import { emptyFloat32, makeParameter, type Parameter } from "./parameters.ts";
import { ropeTables } from "./rope.ts";

/** Gives every weight of a dense float32 model a gradient; the parameters in the order of the forward pass. */
export function trainAllParameters(model: LlamaModel): Parameter[] {
  const parameters: Parameter[] = [];
  const learn = (name: string, value: Tensor): Parameter => {
    expect(value.dtype === "float32", "full_parameters", `${name}: expected float32, got ${value.dtype}`);
    const parameter = makeParameter(name, value);
    parameters.push(parameter);
    return parameter;
  };
  const learnNorm = (name: string, norm: NormLayer) => {
    norm.trained = learn(`${name}.weight`, norm.weight);
  };
  const learnLinear = (linear: LinearLayer) => {
    const weight = learn(`${linear.name}.weight`, linear.weight.data);
    linear.trained = { weight, bias: linear.bias && learn(`${linear.name}.bias`, linear.bias) };
  };
  model.embedTrained = learn("model.embed_tokens.weight", model.embed);
  model.blocks.forEach((layer, i) => {
    learnNorm(`model.layers.${i}.input_layernorm`, layer.inputNorm);
    learnNorm(`model.layers.${i}.post_attention_layernorm`, layer.postNorm);
    for (const linear of linearsOf(layer)) learnLinear(linear);
  });
  learnNorm("model.norm", model.finalNorm);
  if (model.head.weight.data === model.embed) model.head.trained = { weight: model.embedTrained, bias: null };
  else learnLinear(model.head);
  return parameters;
}

/** A new dense float32 model with weights drawn from N(0, std²); norms are one, biases absent. */
export function createModel(config: LlamaConfig, options: { seed: number; std: number }): LlamaModel {
  const { seed, std } = options;
  let stream = 0;
  const matrix = (out: number, inFeatures: number, deviation: number): Tensor => {
    const t = emptyFloat32([out, inFeatures], "cpu", "weights");
    normalFill(t, { mean: 0, std: deviation, seed, stream: stream++ });
    return t;
  };
  const modules = llamaModules(config);
  // Projections back into the residual stream start smaller (GPT-2), so that depth does not blow it up.
  const outward = std / Math.sqrt(2 * config.layerCount);
  const linear = (name: string): LinearLayer => {
    const [out, inFeatures] = modules.get(name) ?? [0, 0];
    const isOutward = name.endsWith("o_proj") || name.endsWith("down_proj");
    const weight = denseWeight(matrix(out, inFeatures, isOutward ? outward : std));
    return { name, weight, bias: null, lora: null, trained: null };
  };
  const block = (i: number): LlamaBlock => {
    const at = `model.layers.${i}`;
    return {
      inputNorm: newNorm(config),
      q: linear(`${at}.self_attn.q_proj`),
      k: linear(`${at}.self_attn.k_proj`),
      v: linear(`${at}.self_attn.v_proj`),
      o: linear(`${at}.self_attn.o_proj`),
      postNorm: newNorm(config),
      gate: linear(`${at}.mlp.gate_proj`),
      up: linear(`${at}.mlp.up_proj`),
      down: linear(`${at}.mlp.down_proj`),
    };
  };
  const embed = matrix(config.vocabSize, config.hiddenSize, std);
  const blocks = Array.from({ length: config.layerCount }, (_, i) => block(i));
  const head = config.tieWordEmbeddings ? embed : matrix(config.vocabSize, config.hiddenSize, std);
  return {
    config,
    embed,
    embedTrained: null,
    blocks,
    finalNorm: newNorm(config),
    head: { name: "lm_head", weight: denseWeight(head), bias: null, lora: null, trained: null },
    tables: ropeTables(config.rope, config.headDim, config.maxPositionEmbeddings, "cpu"),
  };
}

function newNorm(config: LlamaConfig): NormLayer {
  const ones = new Float32Array(config.hiddenSize).fill(1);
  const weight = Tensor.fromFloat32(ones, [config.hiddenSize], { device: "cpu", kind: "weights" });
  return { weight, eps: config.rmsNormEps, trained: null };
}
