// llama.cpp through node-llama-cpp: prefill and greedy decode, tokens a second.
//   node llama_node.mjs ENTRY FILE.gguf PROMPT NEW THREADS     ENTRY: node_modules/node-llama-cpp/dist/index.js
import { pathToFileURL } from "node:url";

const [entry, file, ...numbers] = process.argv.slice(2);
const [promptCount, newCount, threads] = numbers.map(Number);
const { getLlama } = await import(pathToFileURL(entry).href);
const llama = await getLlama({ build: "never", gpu: false, logLevel: "error", maxThreads: threads });
const model = await llama.loadModel({ modelPath: file });
const contextSize = promptCount + newCount + 16;
const context = await model.createContext({ contextSize, batchSize: Math.max(promptCount, 512), threads });
const sequence = context.getSequence();
const prompt = Array.from({ length: promptCount }, (_, i) => 3 + ((i * 7919) % 30000));

/** Seconds until the first token, and for each of the `count` after it. */
async function generate(count) {
  await sequence.clearHistory();
  let started = performance.now();
  let first = 0;
  let n = 0;
  for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    if (n === 0) {
      first = (performance.now() - started) / 1000;
      started = performance.now();
    }
    if (n++ === count) break;
  }
  return { first, rest: (performance.now() - started) / 1000 };
}

await generate(0);
const { first, rest } = await generate(newCount);
const figures = { prefill_tokens_per_s: promptCount / first, decode_tokens_per_s: newCount / rest };
process.stdout.write(`${JSON.stringify({ ...figures, llama_cpp: llama.llamaCppRelease?.release ?? "" })}\n`);
process.exit(0);
