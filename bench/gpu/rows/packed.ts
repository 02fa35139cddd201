// A QLoRA step of 7B, full rows of 2048 tokens, beside transformers + PEFT on the same device in the same minutes, and the
// share of what the device multiplies at most.
import { memory } from "#native";
import { trainingFlops } from "../../../packages/engine/flops.ts";
import type { Printed } from "../../harness/child.ts";
import { median } from "../../harness/compare.ts";
import { Peers } from "../../harness/peers.ts";
import { lastLine } from "../last-line.ts";
import { measureRates } from "../rates.ts";
import { gigabytes, type MeasureRow, type Result, type Setting } from "../row.ts";
import { configOf } from "../shapes.ts";
import { loraOf, type Training, train } from "../training.ts";

const count = 2; // rows of a step
const secondsToEnd = 3; // what printing and ending take at most

function peerArguments({ device }: Setting, { config, rank }: Training, length: number): string[] {
  const { hiddenSize, intermediateSize, layerCount, headCount, kvHeadCount, vocabSize } = config;
  const shape = [hiddenSize, intermediateSize, layerCount, headCount, kvHeadCount, vocabSize];
  const sizes = ["--batch", String(count), "--seq", String(length), "--rank", String(rank)];
  return ["--device", device, "--shape", shape.join(","), ...sizes, "--steps", "3"];
}

/** transformers + PEFT; where they are not installed or fail, a step of the same shape in plain PyTorch. */
function addPeer(setting: Setting, args: readonly string[], ours: number, result: Result): void {
  const ways = [
    { name: "transformers + PEFT", needed: ["torch", "transformers", "peft"], more: [] },
    { name: "plain PyTorch", needed: ["torch"], more: ["--plain"] },
  ];
  for (const { name, needed, more } of ways) {
    const peer = new Peers(setting.peersPython, null).pythonScript(name, needed, "gpu_step.py", [...args, ...more]);
    // What this row has measured is not to be lost by what a peer takes.
    const left = setting.seconds - process.uptime() - secondsToEnd;
    const printed = "note" in peer ? peer.note : left > 0 ? lastLine<Printed>(peer.command, left) : "no time was left";
    if (typeof printed !== "string") return void addFigures(`${name}, ${printed["quantizer"]}`, printed, ours, result);
    result.notes.push(`${name}: ${printed}`);
  }
}

function addFigures(name: string, printed: Printed, ours: number, { figures, goals }: Result): void {
  const theirs = Number(printed["tokens_per_s"]);
  figures[name] = { value: theirs, unit: "tokens/s" };
  const peak = printed["peak_bytes"];
  if (typeof peak === "number") figures[`${name}: most memory`] = gigabytes(peak);
  goals.push({ text: `≥ 2 × ${name}`, value: ours / theirs, needed: 2, atMost: false });
}

export const measurePacked: MeasureRow = async (setting) => {
  const { device, shape } = setting;
  const full = shape === "full";
  const length = full ? 2048 : 32;
  const rows = Array<number>(count).fill(length);
  const training: Training = {
    ...{ config: configOf("7b", shape), device, rank: full ? 16 : 4, gradientCheckpointing: "full", cap: 0 },
    ...{ adapterDtype: "float32", optimizer: "adamw_32bit", steps: [rows, rows, rows, rows] },
  };
  const { seconds, memory: taken } = await train(training);
  const tokens = count * length;
  const step = median(seconds.slice(1));
  const counts = { tokens, trainedTokens: tokens - count, squares: count * length ** 2 };
  // Useful operations: what a block does again in the backward pass is not counted.
  const lora = loraOf(training.rank);
  const flops = trainingFlops(training.config, counts, { lora, gradientCheckpointing: "none" });
  memory.trim(device); // the others need it now
  const rates = measureRates(setting);
  const result: Result = {
    what: `7b: a QLoRA step of ${count} × ${length} tokens, r ${training.rank} on all linear layers, bfloat16, full checkpointing`,
    figures: {
      Nibble: { value: tokens / step, unit: "tokens/s" },
      "Nibble: most memory": gigabytes(taken.peakTotal),
      "Nibble: useful operations": { value: flops / step / 1e12, unit: "TFLOP/s" },
    },
    goals: [],
    notes: rates.notes,
  };
  if (rates.product !== null) {
    result.figures["a bfloat16 product by PyTorch"] = { value: rates.product / 1e12, unit: "TFLOP/s" };
    const share = flops / step / rates.product;
    result.goals.push({ text: "≥ 45 % of bfloat16's peak", value: share, needed: 0.45, atMost: false });
  }
  addPeer(setting, peerArguments(setting, training, length), tokens / step, result);
  return result;
};
