// Linear layers beside OpenBLAS sgemm of the same product: a square one and a training step's shape.
import { runLines } from "../harness/child.ts";
import { seriesOf } from "../harness/compare.ts";
import { judge, type Result } from "../harness/row.ts";
import { ours, type Setting } from "../harness/setting.ts";

interface Line {
  what: string;
  isa: string;
  gflops: number[];
  openblas: number[];
}

/** N, O, I, and which weights: all for the square, those of a QLoRA step for the shapes of one. */
const shapes = [
  ["2048,2048,2048", ""],
  ["1024,576,576", "double quantized"],
  ["1024,1536,576", "double quantized"],
  ["1024,576,1536", "double quantized"],
] as const;

export async function measureMatmul(setting: Setting): Promise<Result[]> {
  const results: Result[] = [];
  const needed = ["numpy"];
  const python = setting.peers.pythonScript("OpenBLAS", needed, "", []);
  const notes = "note" in python ? [python.note] : [];
  const peer = "command" in python ? ["--python", python.command.file] : ["--python", "none"];
  for (const [shape, only] of shapes) {
    const args = [
      "--shape",
      shape,
      "--threads",
      String(setting.threads),
      "--runs",
      String(setting.runs),
      "--only",
      only,
      "--json",
    ];
    const lines = (await runLines(ours("matmul.ts", [...args, ...peer]))) as unknown as Line[];
    for (const { what, isa, gflops, openblas } of lines) {
      const series = [seriesOf("Nibble", gflops), ...(openblas.length > 0 ? [seriesOf("OpenBLAS", openblas)] : [])];
      const isFaster = isa === "avx512_bf16" && what.includes("x bfloat16");
      const goal = isFaster
        ? { text: "> OpenBLAS sgemm (AVX-512 BF16)", needed: 1 }
        : { text: "≥ 90 % of OpenBLAS sgemm", needed: 0.9 };
      const goals = [{ ...goal, beside: "OpenBLAS" }];
      results.push(judge({ what: `${what}, N,O,I ${shape}`, unit: "GFLOP/s", goals, notes }, series));
    }
  }
  return results;
}
