// `node scripts/run.mjs quickstart/finetune [--model DIR] [--out DIR] [--misses N] [--set KEY=VALUE …]`: fine-tunes the quickstart's base
// on its instruction set through the engine alone, and marks its answers before and after, task by task. It is how the recipe was chosen;
// the demo does the same through the services. It reads examples/quickstart.yaml, as the demo does.
import { join } from "node:path";
import { parseArgs } from "node:util";
import { loadTokenizer, readRecipe } from "#packages/data";
import { defaultQuant, Engine } from "#packages/engine";
import { Examiner, type Mark, summarize } from "./exam.ts";
import { makeQuestions } from "./instructions.ts";
import { fineTuningFile, heldOutRows, modelFolder, seeds } from "./recipe.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: modelFolder },
    out: { type: "string", default: "build/quickstart/adapter" },
    misses: { type: "string", default: "0" },
    set: { type: "string", multiple: true, default: [] },
  },
});
const changes = Object.fromEntries(
  values.set.map((pair) => {
    const [key, value] = pair.split("=") as [string, string];
    return [key, Number.isNaN(Number(value)) ? value : Number(value)];
  }),
);

function show(title: string, marks: readonly Mark[]): void {
  const { share, byTask } = summarize(marks);
  process.stdout.write(`${title}: ${(100 * share).toFixed(1)} % right (${byTask})\n`);
  for (const { prompt, expected, answer } of marks.filter((m) => !m.isRight).slice(0, Number(values.misses))) {
    process.stdout.write(`  ${JSON.stringify(prompt)}: expected ${expected}, got ${answer}\n`);
  }
}

const data = join(modelFolder, "data/train.jsonl");
const engine = new Engine();
try {
  const served = {
    modelDir: values.model,
    device: "cpu",
    dtype: "float32",
    quant: defaultQuant,
    sequencesMax: 16,
    stepTokensMax: 512,
    cacheTokensMax: 8192,
    waitingMax: 1000,
  } as const;
  const model = await engine.openModel(served);
  const examiner = new Examiner(model, loadTokenizer(values.model));
  const questions = makeQuestions(seeds.heldOut, "heldout", heldOutRows);
  show("base, begun sentences", await examiner.finishSentences(1, 100));
  show("base, held-out questions", await examiner.ask(questions, null));

  const flags = { ...changes, model: values.model, data, out: values.out };
  const recipe = readRecipe({ file: fineTuningFile, flags });
  const evalFile = join(modelFolder, "data/heldout.jsonl");
  const report = await engine.train({ recipe, evalFile, evalSteps: 0, device: "cpu" });
  const { steps, tokens, seconds, firstLoss, lastLoss, evalLoss } = report;
  const losses = `loss ${firstLoss.toFixed(3)} to ${lastLoss.toFixed(3)}, held-out ${evalLoss?.toFixed(3)}`;
  process.stdout.write(`${steps} steps, ${tokens} tokens, ${Math.round(seconds)} s, ${losses}\n`);

  await model.loadAdapter("quickstart", values.out);
  show("adapter, held-out questions", await examiner.ask(questions, "quickstart"));
  show("adapter, training questions", await examiner.ask(makeQuestions(seeds.train, "train", 240), "quickstart"));
} finally {
  await engine.close();
}
