// Times the quantization of a 16-bit model folder to NF4 with double quantization:
//   node scripts/run.mjs ../bench/quantize MODEL_DIR [--threads 2] [--json]
// quantize_s: every linear layer, from memory to memory. load_quantize_s: the whole folder into memory, quantized on
// the way, for the second time in the process, as the peer has read its file once before, too; first_load_s: for the
// first time. read_s: the same files read into new memory, which is what it costs to have them in memory at all (page
// cache warm); copy_s: read into memory whose pages are there already, which no load of a new model can reach, as it
// needs memory of its own. folder_s: from folder to folder, with digest and fsync.
import { closeSync, globSync, mkdtempSync, openSync, readSync, rmSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { setThreadCount, type Tensor } from "#native";
import { openModelFolder } from "#packages/hub";
import { freeModel, loadModel } from "../packages/engine/model-load.ts";
import { quantizeModel } from "../packages/engine/quantize-model.ts";
import { defaultQuant, freeWeight, quantizeMatrix } from "../packages/engine/quantize-tensor.ts";
import { uploadTensor } from "../packages/engine/weight-reader.ts";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: "string", default: String(availableParallelism()) },
    folder: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});
const [modelDir] = positionals;
if (modelDir === undefined) throw new Error("expected a model folder");
setThreadCount(Number(options.threads));

function seconds(work: () => void): number {
  const started = performance.now();
  work();
  return (performance.now() - started) / 1000;
}

/** Every tensor as it is, into new memory; huge pages where the kernel has them. */
function readIntoNewMemory(dir: string): void {
  using folder = openModelFolder(dir);
  const tensors = [...folder.tensors.keys()].map((name) => uploadTensor(folder, name, "cpu"));
  for (const tensor of tensors) tensor.free();
}

/** Into a buffer whose pages are there: what the kernel's copy costs. */
function readFiles(dir: string): () => void {
  const files = globSync("*.safetensors", { cwd: dir }).map((name) => join(dir, name));
  const buffers = files.map((file) => Buffer.alloc(statSync(file).size, 1));
  return () =>
    files.forEach((file, i) => {
      const fd = openSync(file, "r");
      const buffer = buffers[i] ?? Buffer.alloc(0);
      for (let at = 0; at < buffer.length; ) at += readSync(fd, buffer, at, buffer.length - at, at);
      closeSync(fd);
    });
}

/** Every linear layer of the blocks, from memory to memory. */
function quantizeAll(dir: string): number {
  using folder = openModelFolder(dir);
  const names = [...folder.tensors.keys()].filter((n) => n.includes(".layers.") && folder.info(n).shape.length === 2);
  const sources = names.map((name): [string, Tensor] => [name, uploadTensor(folder, name, "cpu")]);
  const warm = uploadTensor(folder, names[0] ?? "", "cpu");
  freeWeight(quantizeMatrix(warm, "warm", defaultQuant, "cpu"));
  return seconds(() => {
    for (const [name, source] of sources) freeWeight(quantizeMatrix(source, name, defaultQuant, "cpu"));
  });
}

function loadAndQuantize(dir: string): void {
  using folder = openModelFolder(dir);
  freeModel(loadModel(folder, { device: "cpu", quant: defaultQuant, positions: 1024 }));
}

const figures: Record<string, number> = {
  quantize_s: quantizeAll(modelDir),
  first_load_s: seconds(() => loadAndQuantize(modelDir)),
  load_quantize_s: seconds(() => loadAndQuantize(modelDir)),
  read_s: seconds(() => readIntoNewMemory(modelDir)),
  copy_s: seconds(readFiles(modelDir)),
};
if (options.folder) {
  const out = mkdtempSync(join(dirname(modelDir), "quantized-"));
  const started = performance.now();
  await quantizeModel({ modelDir, outDir: out, quant: defaultQuant });
  figures["folder_s"] = (performance.now() - started) / 1000;
  rmSync(out, { recursive: true });
}
const text = Object.entries(figures).map(([name, s]) => `${name.padEnd(18)}${(1000 * s).toFixed(1).padStart(9)} ms`);
process.stdout.write(options.json ? `${JSON.stringify(figures)}\n` : `${text.join("\n")}\n`);
