// `node scripts/run.mjs quickstart/pretrain [--documents N] [--out DIR]`: makes the quickstart's base model from nothing, through the
// engine: random weights, then every parameter trained in float32 on the corpus, then saved as bfloat16 with the log of the run.
// It is `nibble train` with full parameters; only the text comes from here.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { parseRecipe } from "#packages/data";
import { Engine, type TrainEvent } from "#packages/engine";
import { documents } from "./corpus.ts";
import { modelFolder, pretraining, seeds } from "./recipe.ts";

const { values } = parseArgs({
  options: { documents: { type: "string" }, out: { type: "string", default: "build/quickstart" } },
});
const documentCount = Number(values.documents ?? pretraining.documents);
const work = values.out;
const files = { start: join(work, "start"), corpus: join(work, "corpus.jsonl"), heldOut: join(work, "heldout.jsonl") };

function writeTexts(path: string, texts: Iterable<string>): void {
  let rows = "";
  for (const text of texts) rows += `${JSON.stringify({ text })}\n`;
  writeFileSync(path, rows);
}

function report(event: TrainEvent): void {
  if (event.kind === "log") process.stdout.write(`${event.text}\n`);
  if (event.kind === "eval") process.stdout.write(`step ${event.step}: held-out loss ${event.loss.toFixed(4)}\n`);
  if (event.kind !== "step" || (event.step % 50 !== 0 && event.step !== 1)) return;
  const left = ((event.steps - event.step) * event.seconds) / 60;
  const figures = `loss ${event.loss.toFixed(3)}, ${Math.round(event.tokensPerSecond)} tokens/s, ${left.toFixed(1)} min left`;
  process.stdout.write(`step ${event.step} of ${event.steps}: ${figures}\n`);
}

mkdirSync(work, { recursive: true });
writeTexts(files.corpus, documents(seeds.corpus).take(documentCount));
writeTexts(files.heldOut, documents(seeds.heldOutCorpus).take(200));
const engine = new Engine();
try {
  await engine.writeNewModel({
    sourceDir: modelFolder,
    out: files.start,
    seed: seeds.weights,
    std: pretraining.weightStd,
  });
  const recipe = parseRecipe({
    flags: { ...pretraining.recipe, model: files.start, data: files.corpus, out: join(work, "trained") },
  });
  const job = { recipe, evalFile: files.heldOut, evalSteps: pretraining.evalSteps, device: "cpu" } as const;
  const result = await engine.train(job, { onEvent: report });
  copyFileSync(join(work, "trained", "model.safetensors"), join(modelFolder, "model.safetensors"));
  const log = readFileSync(join(work, "trained", "metrics.jsonl"), "utf8");
  writeFileSync(join(modelFolder, "pretraining.jsonl"), log);
  process.stdout.write(
    `${result.tokens} tokens in ${Math.round(result.seconds)} s, held-out loss ${result.evalLoss?.toFixed(4)}\n`,
  );
} finally {
  await engine.close();
}
