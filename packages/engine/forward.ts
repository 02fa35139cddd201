// Forward and backward through a whole model, a block at a time. Each block has a tape of its own.
import { freeOnThrow, linearCrossEntropy, linearForward, Tensor } from "#native";
import type { DeviceBatch } from "./batch.ts";
import { BlockInput } from "./block-input.ts";
import {
  type Attend,
  attendDocuments,
  block,
  embed,
  finalNorm,
  type LlamaModel,
  trainingLinears,
} from "./models/llama.ts";
import { Tape, type TapeOptions, type Var } from "./tape.ts";
import { widenAdapters } from "./wide-adapter.ts";

/**
 * What the backward pass makes again instead of having kept it. "selective": norms and gated activations, which cost
 * next to nothing (Korthikanti et al., arXiv:2205.05198, section 5). "full": all but a block's input; the block runs
 * again on a recording tape (Chen et al., arXiv:1604.06174). "offload": as full, and the inputs wait on the host.
 */
export type GradientCheckpointing = "none" | "selective" | "full" | "offload";

export interface PassOptions {
  device: TapeOptions["device"];
  dtype: TapeOptions["dtype"];
  gradientCheckpointing: GradientCheckpointing;
  /** Null: dropout is off. */
  dropoutSeed: number | null;
}

/** A part of the forward pass: rebuilt on a recording tape when its own did not record. */
interface Segment {
  run(tape: Tape, x: Var): Var;
  /** Puts the block's adapters into float32 and gives what puts them back. */
  widen(learns: boolean): () => void;
  input: BlockInput;
  inputRequiresGrad: boolean;
  kept: Recorded | null;
}

interface Recorded {
  tape: Tape;
  x: Var;
  y: Var;
  narrow: () => void;
}

class ModelPass {
  private readonly model: LlamaModel;
  private readonly batch: DeviceBatch;
  private readonly options: PassOptions;
  private readonly segments: Segment[] = [];
  private readonly embedTape: Tape;
  private readonly embedded: Var;

  constructor(model: LlamaModel, batch: DeviceBatch, options: PassOptions) {
    this.model = model;
    this.batch = batch;
    this.options = options;
    this.embedTape = this.tape(true);
    this.embedded = embed(this.embedTape, model, batch.ids);
    // The first block's input, which its segment frees; the embedding's gradient does not need it.
    this.embedTape.disown(this.embedded.value);
  }

  private tape(recording: boolean): Tape {
    return new Tape({ device: this.options.device, dtype: this.options.dtype, recording });
  }

  /** The stream of hidden states after the last block; `learns` says whether it needs a gradient. */
  forward(): { hidden: Tensor; learns: boolean } {
    const attend = attendDocuments(this.model, this.batch);
    let hidden = this.embedded.value;
    let learns = this.embedded.requiresGrad;
    for (const layer of this.model.blocks) {
      const segment = this.segment(layer, attend, hidden, learns);
      const { gradientCheckpointing } = this.options;
      const recording = gradientCheckpointing === "none" || gradientCheckpointing === "selective";
      const tape = this.tape(recording);
      const narrow = segment.widen(recording);
      const x = tape.variable(hidden, learns);
      const y = segment.run(tape, x);
      if (recording) segment.kept = { tape, x, y, narrow };
      else narrow();
      hidden = tape.disown(y.value);
      learns = learns || blockLearns(layer);
      if (gradientCheckpointing === "selective") tape.forgetCheap();
      if (!recording) tape.dispose();
      if (gradientCheckpointing === "offload") segment.input.sendAway();
      this.segments.push(segment);
    }
    return { hidden, learns };
  }

  private segment(layer: LlamaModel["blocks"][number], attend: Attend, input: Tensor, learns: boolean): Segment {
    const run = trainingLinears(this.options.dropoutSeed);
    const rotate = { positions: this.batch.positions, tables: this.model.tables };
    return {
      run: (tape, x) => block(tape, layer, x, run, rotate, attend),
      input: new BlockInput(input),
      inputRequiresGrad: learns,
      kept: null,
      widen: (learning) => widenAdapters(layer, learning),
    };
  }

  /** From the gradient of the last hidden states back to the embedding. Frees what it goes past. */
  backward(gradient: Tensor): void {
    let upstream: Tensor | null = gradient;
    for (let segment = this.segments.pop(); segment; segment = this.segments.pop()) {
      const { tape, x, y, narrow } = segment.kept ?? this.again(segment);
      y.grad = upstream;
      tape.backward();
      const next = x.grad ? tape.disown(x.grad) : null;
      if (next !== upstream) upstream?.free();
      upstream = next;
      tape.dispose();
      narrow();
      segment.input.free();
    }
    this.embedded.grad = upstream;
    this.embedTape.backward();
    upstream?.free();
    this.embedTape.dispose();
  }

  private again(segment: Segment): Recorded {
    const tape = this.tape(true);
    const narrow = segment.widen(true);
    const x = tape.variable(segment.input.value, segment.inputRequiresGrad);
    const y = segment.run(tape, x);
    if (this.options.gradientCheckpointing === "offload") tape.forgetCheap();
    return { tape, x, y, narrow };
  }

  /** Frees everything without a backward pass. */
  abandon(): void {
    for (const segment of this.segments.splice(0)) {
      segment.kept?.tape.dispose();
      segment.kept?.narrow();
      segment.input.free();
    }
    this.embedTape.dispose();
  }
}

function blockLearns(layer: LlamaModel["blocks"][number]): boolean {
  const { q, k, v, o, gate, up, down } = layer;
  const linears = [q, k, v, o, gate, up, down];
  return layer.inputNorm.trained !== null || linears.some((l) => l.trained !== null || l.lora?.trained != null);
}

/** What one micro-batch gave. Weighted sums over its trained rows: the caller divides by the step's sum of weights. */
export interface PassResult {
  lossSum: number;
}

function sumOfRows(loss: Tensor): number {
  return loss.toFloat32().reduce((sum, row) => sum + row, 0);
}

/**
 * Loss of a packed batch and, with `scale`, its gradients added to those of all parameters.
 * @param scale 1 / the sum of the trained tokens' weights in the whole step; null: loss only.
 * @throws what its ops throw, RESOURCE_EXHAUSTED among it: nothing of the pass stays in memory then.
 */
export function lossAndGradients(
  model: LlamaModel,
  batch: DeviceBatch,
  options: PassOptions,
  scale: number | null,
): PassResult {
  return freeOnThrow(() => wholePass(model, batch, options, scale));
}

function wholePass(model: LlamaModel, batch: DeviceBatch, options: PassOptions, scale: number | null): PassResult {
  const trains = scale !== null;
  const pass = new ModelPass(model, batch, {
    ...options,
    gradientCheckpointing: trains ? options.gradientCheckpointing : "full", // keeps nothing
  });
  const { hidden, learns } = pass.forward();
  const { device, dtype } = options;
  using tape = new Tape({ device, dtype, recording: trains });
  const x = tape.variable(hidden, learns);
  const y = finalNorm(tape, model, x);
  const loss = tape.empty([batch.rows], "float32");
  if (trains && y.requiresGrad) y.grad = tape.empty(y.value.shape);
  const trained = trains ? (model.head.trained?.weight ?? null) : null;
  const { labels, weights } = batch;
  const outputs = { loss, dX: y.grad, dW: trained?.grad ?? null };
  linearCrossEntropy({ x: y.value, w: model.head.weight, labels, weights, scale: scale ?? 0, ...outputs });
  tape.backward();
  if (x.grad) pass.backward(tape.disown(x.grad));
  else pass.abandon();
  hidden.free();
  return { lossSum: sumOfRows(loss) };
}

/** Logits float32 [N, V] of every row; for tests and probes, where N is small. The caller frees them. */
export function allLogits(model: LlamaModel, batch: DeviceBatch, options: PassOptions): Tensor {
  const { device, dtype } = options;
  const pass = new ModelPass(model, batch, { ...options, gradientCheckpointing: "full" });
  const { hidden } = pass.forward();
  using tape = new Tape({ device, dtype, recording: false });
  const y = finalNorm(tape, model, tape.variable(hidden, false));
  const logits = Tensor.empty(dtype, [batch.rows, model.head.weight.out], { device, kind: "activations" });
  linearForward({ x: y.value, w: model.head.weight, bias: null, lora: null, h: null, y: logits });
  pass.abandon();
  hidden.free();
  return logits;
}
