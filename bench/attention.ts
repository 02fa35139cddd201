// Times attention: forward and backward over one packed document, and decoding one token for each of
// several sequences over a paged cache. `npm run bench:attention [-- --seq 256,1024 --threads 2 --dtype bfloat16]`
import { parseArgs } from "node:util";
import {
  attentionBackward,
  attentionForward,
  chooseIsa,
  type Isa,
  isa,
  pagedAttention,
  setThreadCount,
  supportedIsas,
  threadCount,
} from "#native";
import { type Case, generator, randomBytes, Scope, shapeOf } from "../test/support/attention-case.ts";

const { values: options } = parseArgs({
  options: {
    seq: { type: "string", default: "256,1024,2048" },
    threads: { type: "string", default: String(threadCount()) },
    dtype: { type: "string", default: "float32" },
    isa: { type: "string", default: isa() },
    heads: { type: "string", default: "9" },
    "kv-heads": { type: "string", default: "3" },
    "head-size": { type: "string", default: "64" },
    runs: { type: "string", default: "9" },
  },
});

const [heads, kvHeads, headSize] = [Number(options.heads), Number(options["kv-heads"]), Number(options["head-size"])];
const dtype = options.dtype === "bfloat16" ? "bfloat16" : "float32";
const device = "cpu";

interface Taken {
  /** Seconds on the clock, median of the runs. */
  wall: number;
  /** Seconds that cores worked, least of the runs: what other processes take is not in it. */
  cores: number;
}

function time(run: () => void): Taken {
  run();
  const runs = Array.from({ length: Number(options.runs) }, () => {
    const [started, used] = [performance.now(), process.cpuUsage()];
    run();
    const { user, system } = process.cpuUsage(used);
    return { wall: (performance.now() - started) / 1e3, cores: (user + system) / 1e6 };
  });
  const walls = runs.map((r) => r.wall).sort((a, b) => a - b);
  return { wall: walls[walls.length >> 1]!, cores: Math.min(...runs.map((r) => r.cores)) };
}

function report(what: string, work: number, unit: string, { wall, cores }: Taken): void {
  const rate = (seconds: number) => (work / seconds / 1e9).toFixed(1).padStart(6);
  const ms = (wall * 1000).toFixed(2).padStart(8);
  process.stdout.write(`${what.padEnd(18)}${ms} ms ${rate(wall)} ${unit}, ${rate(cores)} for each core's second\n`);
}

function benchPacked(rows: number): void {
  const c: Case = { starts: [0, rows], heads, kvHeads, headSize, window: 0, dtype };
  const random = generator(1);
  const scope = new Scope(device);
  const queries = () => scope.of(dtype, [rows, heads * headSize], randomBytes(random, rows * heads * headSize, dtype));
  const keys = () => scope.of(dtype, [rows, kvHeads * headSize], randomBytes(random, rows * kvHeads * headSize, dtype));
  const [q, k, v, dO, o, dQ, dK, dV] = [queries(), keys(), keys(), queries(), queries(), queries(), keys(), keys()];
  const lse = scope.of("float32", [rows, heads]);
  const starts = scope.integers(c.starts);
  // Multiplications and additions of the two products, of the pairs that are seen.
  const flops = (4 * headSize * heads * rows * (rows + 1)) / 2;
  const shape = shapeOf(c);
  const forward = time(() => attentionForward(shape, { q, k, v, starts, o, lse }));
  report(`forward  ${rows}`, flops, "GFLOP/s", forward);
  const backward = time(() => attentionBackward(shape, { dO, q, k, v, o, lse, starts, dQ, dK, dV }));
  report(`backward ${rows}`, 2.5 * flops, "GFLOP/s", backward);
  scope.free();
}

function benchDecode(sequences: number, length: number): void {
  const page = 16;
  const columns = Math.ceil(length / page);
  const random = generator(2);
  const scope = new Scope(device);
  const rowSize = kvHeads * headSize;
  const cache = () => {
    const shape = [sequences * columns, kvHeads, page, headSize];
    return scope.of(dtype, shape, randomBytes(random, sequences * columns * page * rowSize, dtype));
  };
  const q = scope.of(dtype, [sequences, heads * headSize], randomBytes(random, sequences * heads * headSize, dtype));
  const [kCache, vCache, o] = [cache(), cache(), scope.of(dtype, [sequences, heads * headSize])];
  const order = Array.from({ length: sequences * columns }, (_, i) => ({ i, at: random() }));
  const table = order.sort((a, b) => a.at - b.at).map((x) => x.i);
  const blockTable = scope.integers(table, [sequences, columns]);
  const sequence = scope.integers(Array.from({ length: sequences }, (_, s) => s));
  const position = scope.integers(Array.from({ length: sequences }, () => length - 1));
  const shape = shapeOf({ starts: [0], heads, kvHeads, headSize, window: 0, dtype });
  const taken = time(() => pagedAttention(shape, { q, kCache, vCache, blockTable, sequence, position, o }));
  const bytes = 2 * sequences * length * rowSize * (dtype === "float32" ? 4 : 2);
  report(`decode ${sequences} x ${length}`, bytes, "GB/s of cache", taken);
  scope.free();
}

setThreadCount(Number(options.threads));
if (supportedIsas().includes(options.isa as Isa)) chooseIsa(options.isa as Isa);
process.stdout.write(
  `attention ${dtype}, H ${heads}, K ${kvHeads}, D ${headSize}, ${isa()}, ${threadCount()} threads, median of ${options.runs}\n`,
);
for (const rows of options.seq.split(",").map(Number)) benchPacked(rows);
for (const sequences of [1, 8]) for (const length of [1024, 4096]) benchDecode(sequences, length);
