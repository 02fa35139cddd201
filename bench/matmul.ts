// Times linear layers against OpenBLAS sgemm on the same cores, in alternating runs of one process pair.
//   npm run bench:matmul [-- --size 2048 | --shape N,O,I] [--threads 2] [--runs 7] [--isa avx2] [--python PATH]
// --cpu-time counts the seconds that cores worked, for a machine that is busy with other things; with it use
// --threads 1, as OpenBLAS's threads spin while they wait.
// OpenBLAS comes with numpy: python3 -m venv .venv && .venv/bin/pip install numpy, then --python .venv/bin/python.
// Without it the bench prints our figures alone.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { availableParallelism, cpus } from "node:os";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import {
  chooseIsa,
  type DType,
  type Isa,
  isa,
  linearBackward,
  linearForward,
  setThreadCount,
  supportedIsas,
} from "#native";
import { Bench, numbers, seeded, type WeightForm } from "../test/support/tensors.ts";

const { values: options } = parseArgs({
  options: {
    size: { type: "string", default: "2048" },
    shape: { type: "string" },
    threads: { type: "string", default: String(availableParallelism()) },
    runs: { type: "string", default: "7" },
    isa: { type: "string", default: isa() },
    python: { type: "string", default: "python3" },
    "cpu-time": { type: "boolean", default: false },
    only: { type: "string", default: "" }, // of the weights below, those whose name has this in it
    json: { type: "boolean", default: false }, // a line of JSON for each product, with every run
  },
});
const runs = Number(options.runs);
const cpuTime = options["cpu-time"];
const threads = Number(options.threads);
const [n, out, inFeatures] = (options.shape ?? `${options.size},${options.size},${options.size}`)
  .split(",")
  .map(Number) as [number, number, number];

// OpenBLAS's threads spin for some 20 ms after their work; we must not run beside them.
const settleMs = 100;

/** OpenBLAS in a process of its own that waits, idle, while we run. */
class OpenBlas {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  private constructor(name: string, child: ChildProcess, lines: AsyncIterator<string>) {
    this.name = name;
    this.#child = child;
    this.#lines = lines;
  }

  static async start(python: string): Promise<OpenBlas | null> {
    if (spawnSync(python, ["-c", "import numpy"]).status !== 0) return null;
    const env = { ...process.env, OPENBLAS_NUM_THREADS: String(threads) };
    const script = fileURLToPath(new URL("openblas.py", import.meta.url));
    const child = spawn(python, [script], { env, stdio: ["pipe", "pipe", "inherit"] });
    const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
    const first = await lines.next();
    return new OpenBlas(first.value ?? "BLAS", child, lines);
  }

  /** Seconds of one x Wᵀ, x [m, k], W [n, k], of `times`. */
  async seconds(m: number, columns: number, k: number, times: number): Promise<number> {
    this.#child.stdin!.write(`${m} ${columns} ${k} ${times}\n`);
    const [clock = "", cpu = ""] = String((await this.#lines.next()).value).split(" ");
    await pause(settleMs);
    return Number(cpuTime ? cpu : clock);
  }

  stop(): void {
    this.#child.stdin!.end();
  }
}

interface Subject {
  name: string;
  run: () => void;
}

const nf4 = (dtype: DType, nested: boolean): WeightForm => ({ dtype, quant: { type: "nf4", blockSize: 64, nested } });
const forms: [string, WeightForm, DType][] = [
  ["float32", { dtype: "float32", quant: null }, "float32"],
  ["bfloat16, x bfloat16", { dtype: "bfloat16", quant: null }, "bfloat16"],
  ["nf4 of float32", nf4("float32", false), "float32"],
  ["nf4 of bfloat16, double quantized", nf4("bfloat16", true), "float32"],
  ["nf4 of bfloat16, double quantized, x bfloat16", nf4("bfloat16", true), "bfloat16"],
];

function subjects(bench: Bench): Subject[] {
  const rng = seeded(1);
  const values = numbers(rng, out * inFeatures);
  const chosen = forms.filter(([name]) => name.includes(options.only));
  return chosen.flatMap(([name, form, dtype]) => {
    const w = bench.weight(values, out, inFeatures, form);
    const x = bench.of(numbers(rng, n * inFeatures), [n, inFeatures], dtype);
    const [y, dX] = [bench.filled(0, [n, out], dtype), bench.filled(0, [n, inFeatures], dtype)];
    const backward = { dY: y, x: null, w, lora: null, h: null, dX, accumulateDx: false };
    return [
      { name: `y = x Wᵀ, W ${name}`, run: () => linearForward({ x, w, bias: null, lora: null, h: null, y }) },
      {
        name: `dX = dY W, W ${name}`,
        run: () => linearBackward({ ...backward, dA: null, dB: null, dW: null, dBias: null }),
      },
    ];
  });
}

// A short product alone would mostly time how fast a sleeping core wakes up.
const times = Math.ceil((0.1 * 2e11) / (2 * n * out * inFeatures));

/** Seconds of one run. */
function timed(run: () => void): number {
  const started = performance.now();
  const worked = process.cpuUsage();
  for (let i = 0; i < times; i++) run();
  const { user, system } = process.cpuUsage(worked);
  return (cpuTime ? (user + system) / 1e6 : (performance.now() - started) / 1000) / times;
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;

if (!(supportedIsas() as string[]).includes(options.isa)) throw new Error(`this machine has no ${options.isa}`);
chooseIsa(options.isa as Isa);
setThreadCount(threads);
const blas = await OpenBlas.start(options.python);
const print = (line: string) => (options.json ? false : process.stdout.write(`${line}\n`));
print(
  `${cpus()[0]?.model.trim()}, ${availableParallelism()} cores; ${threads} threads, ${isa()}, N=${n} O=${out} I=${inFeatures}`,
);
print(
  blas
    ? `beside ${blas.name}; medians of ${runs} alternating runs${cpuTime ? ", CPU time" : ""}`
    : "no numpy here: see the head of bench/matmul.ts",
);
print(`${"".padEnd(64)}ms    GFLOP/s   OpenBLAS   share of it`);
const bench = new Bench("cpu");
const flops = 2 * n * out * inFeatures;
for (const subject of subjects(bench)) {
  subject.run();
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let i = 0; i < runs; i++) {
    ours.push(timed(subject.run));
    if (blas) theirs.push(await blas.seconds(n, out, inFeatures, times));
  }
  if (options.json) {
    const rates = (seconds: number[]) => seconds.map((s) => flops / s / 1e9);
    const line = { what: subject.name, isa: isa(), gflops: rates(ours), openblas: rates(theirs) };
    process.stdout.write(`${JSON.stringify(line)}\n`);
    continue;
  }
  const rate = (seconds: number) => (flops / seconds / 1e9).toFixed(1);
  const share = blas ? `${((100 * median(theirs)) / median(ours)).toFixed(0)} %` : "";
  const [ms, mine, other] = [(median(ours) * 1000).toFixed(1), rate(median(ours)), blas ? rate(median(theirs)) : "-"];
  print(`${subject.name.padEnd(58)}${ms.padStart(8)}${mine.padStart(11)}${other.padStart(11)}${share.padStart(14)}`);
}
bench.free();
blas?.stop();
