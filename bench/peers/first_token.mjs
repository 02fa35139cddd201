// node-llama-cpp from the start of the process: load the file, tokenize, print the first token.
//   node first_token.mjs ENTRY FILE.gguf THREADS     ENTRY: node_modules/node-llama-cpp/dist/index.js
import { pathToFileURL } from "node:url";

const [entry, file, threads] = process.argv.slice(2);
const { getLlama } = await import(pathToFileURL(entry).href);
const llama = await getLlama({ build: "never", gpu: false, logLevel: "error", maxThreads: Number(threads) });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({ contextSize: 1024, threads: Number(threads) });
const sequence = context.getSequence();
for await (const token of sequence.evaluate(model.tokenize("once upon a time"), { temperature: 0 })) {
  process.stdout.write(`${token} ${JSON.stringify(model.detokenize([token]))}\n`);
  break;
}
process.exit(0);
