// `nibble train` with these arguments, and then a line of JSON with the most memory that the process had resident.
//   node bench/train-peak.ts --model DIR --data FILE --out DIR --steps 2 --json …
import { readFileSync } from "node:fs";
import { main } from "../packages/cli/main.ts";
import { kilobytes } from "../packages/engine/available-memory.ts";

await main(["train", ...process.argv.slice(2)]);
const peakRss = kilobytes(readFileSync("/proc/self/status", "utf8"), "VmHWM");
process.stdout.write(`${JSON.stringify({ peak_rss: peakRss })}\n`);
