// Greedy tokens of llama.cpp through node-llama-cpp, as JSON: node greedy_llama_cpp.mjs ENTRY FILE.gguf COUNT TEXT…
import { pathToFileURL } from "node:url";

const [entry, file, count, ...texts] = process.argv.slice(2);
const { getLlama } = await import(pathToFileURL(entry).href);
const llama = await getLlama({ build: "never", gpu: false, logLevel: "error", maxThreads: 2 });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({ contextSize: 256, threads: 2 });
const sequence = context.getSequence();
const all = [];
for (const text of texts) {
  await sequence.clearHistory();
  const ids = model.tokenize(text, true);
  const prompt = model.tokens.shouldPrependBosToken ? [model.tokens.bos, ...ids] : [...ids];
  const answer = [];
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    answer.push(token);
    if (answer.length === Number(count)) break;
  }
  all.push({ prompt, answer });
}
process.stdout.write(JSON.stringify(all));
process.exit(0);
