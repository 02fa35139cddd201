// From the start of the process: load a model folder, tokenize, print the first token. What is timed is outside.
//   node bench/first-token.ts MODEL_DIR [THREADS]
import { availableParallelism } from "node:os";
import { loadTokenizer } from "#packages/data";
import { Engine } from "#packages/engine";

const [modelDir = "", threads] = process.argv.slice(2);
const engine = new Engine({ threads: Number(threads ?? availableParallelism()) });
const opening = engine.openModel({
  ...{ modelDir, device: "cpu", dtype: "float32", quant: null },
  ...{ sequencesMax: 1, stepTokensMax: 512, cacheTokensMax: 1024, waitingMax: 1 },
});
const tokenizer = loadTokenizer(modelDir);
const inputIds = tokenizer.encode("once upon a time");
const model = await opening;
const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
await model.generate(
  { inputIds, maxNewTokens: 1, sampling, adapterId: null, ignoreEos: true, wantLogits: false },
  { onEvent: ({ id }) => process.stdout.write(`${id} ${JSON.stringify(tokenizer.decode([id]))}\n`) },
);
await model.close();
await engine.close();
