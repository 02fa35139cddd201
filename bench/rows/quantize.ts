// 135M to NF4 with double quantization: from memory to memory and from files to memory.
import { alternate, seriesOf } from "../harness/compare.ts";
import { judge, type Result } from "../harness/row.ts";
import { figure, ours, peerFigure, type Setting } from "../harness/setting.ts";

const peerName = "bitsandbytes";
const bound = "reading the files";

export async function measureQuantize(setting: Setting): Promise<Result[]> {
  const notes: string[] = [];
  const [mine, theirs]: Record<string, unknown>[][] = [[], []];
  const [model, threads] = [setting.models.plain(), String(setting.threads)];
  const own = figure("Nibble", ours("quantize.ts", [model, "--threads", threads, "--json"]), "quantize_s", mine);
  const needed = ["torch", "bitsandbytes", "safetensors"];
  const peer = setting.peers.pythonScript(peerName, needed, "quantize.py", [model, threads]);
  const series = await alternate(
    [own, ...peerFigure(peerName, peer, "quantize_s", { notes, all: theirs ?? [] })],
    setting.runs,
  );
  const column = (name: string, all: Record<string, unknown>[] = [], key: string) =>
    seriesOf(
      name,
      all.map((printed) => Number(printed[key])),
    );
  const loading = [
    column("Nibble", mine, "load_quantize_s"),
    ...(series.length > 1 ? [column(peerName, theirs, "load_quantize_s")] : []),
    column(bound, mine, "read_s"),
  ];
  const goal = { text: `≥ 3 × ${peerName}`, beside: peerName, needed: 3 };
  const half = { text: "≥ 50 % of the disk-to-memory bound", beside: bound, needed: 0.5 };
  const common = { unit: "s", lessIsBetter: true };
  return [
    judge(
      { ...common, what: "every linear layer of the model to NF4, double quantized", goals: [goal], notes },
      series,
    ),
    judge({ ...common, what: "the folder into memory, quantized on the way", goals: [goal, half] }, loading),
  ];
}
