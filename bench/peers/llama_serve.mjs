// llama.cpp through node-llama-cpp: answers that begin together in one context, new tokens a second, prompts included.
//   node llama_serve.mjs ENTRY FILE.gguf PROMPT NEW THREADS COUNTS [RUNS]     ENTRY: node_modules/node-llama-cpp/dist/index.js
import { pathToFileURL } from "node:url";

const [entry, file, promptText, newText, threadsText, countsText, runsText = "3"] = process.argv.slice(2);
const [promptCount, newCount, threads, runs] = [promptText, newText, threadsText, runsText].map(Number);
const counts = countsText.split(",").map(Number);
const { getLlama } = await import(pathToFileURL(entry).href);
const llama = await getLlama({ build: "never", gpu: false, logLevel: "error", maxThreads: threads });
const model = await llama.loadModel({ modelPath: file });
const sequences = Math.max(...counts);
const contextSize = promptCount + newCount + 16;
const context = await model.createContext({ contextSize, sequences, batchSize: Math.max(512, promptCount), threads });
const all = Array.from({ length: sequences }, () => context.getSequence());
let seed = 0;

async function answer(sequence) {
  const begin = seed++;
  await sequence.clearHistory();
  const prompt = Array.from({ length: promptCount }, (_, i) => 3 + (((i + begin * 131) * 7919) % 10000));
  let tokens = 0;
  for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    if (++tokens === newCount) break;
  }
  return tokens;
}

async function together(count) {
  const started = performance.now();
  const tokens = await Promise.all(all.slice(0, count).map(answer));
  return tokens.reduce((sum, n) => sum + n, 0) / ((performance.now() - started) / 1000);
}

await together(sequences);
const figures = {};
for (const count of counts) {
  const rates = [];
  for (let run = 0; run < runs; run++) rates.push(await together(count));
  figures[count] = rates.sort((a, b) => a - b)[runs >> 1];
}
process.stdout.write(`${JSON.stringify(figures)}\n`);
process.exit(0);
