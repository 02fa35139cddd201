// What the figures were measured on.
import { readFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, platform, release, totalmem } from "node:os";
import { isa, supportedIsas } from "#native";

export interface Machine {
  cpu: string;
  cores: number;
  isa: string;
  isas: string[];
  memoryBytes: number;
  system: string;
  node: string;
}

export function machine(): Machine {
  return {
    cpu: modelName(),
    cores: availableParallelism(),
    isa: isa(),
    isas: supportedIsas(),
    memoryBytes: totalmem(),
    system: `${platform()} ${release()}`,
    node: process.version,
  };
}

/** The model with its family where the kernel knows it: virtual machines often hide the name. */
function modelName(): string {
  const name = cpus()[0]?.model.trim() ?? "unknown";
  try {
    const text = readFileSync("/proc/cpuinfo", "utf8");
    const field = (key: string) => new RegExp(`^${key}\\s*:\\s*(\\d+)`, "m").exec(text)?.[1];
    return `${name} (family ${field("cpu family")}, model ${field("model")})`;
  } catch {
    return name;
  }
}

interface CpuTime {
  /** Ticks of all cores: in use, and in all. */
  busy: number;
  all: number;
  /** Ticks that this process took, and those of its children that have ended. */
  own: number;
}

function cpuTime(): CpuTime | null {
  try {
    const numbers = (text: string) => text.trim().split(/\s+/).map(Number);
    const [user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0, steal = 0] = numbers(
      readFileSync("/proc/stat", "utf8").split("\n")[0]?.slice(4) ?? "",
    );
    const busy = user + nice + system + irq + soft + steal;
    // After the name in brackets: state is field 0, utime, stime, cutime and cstime are fields 11 to 14.
    const fields = numbers(readFileSync("/proc/self/stat", "utf8").replace(/^.*\) \S/, "0"));
    const own = fields.slice(11, 15).reduce((sum, ticks) => sum + ticks, 0);
    return { busy, all: busy + idle + wait, own };
  } catch {
    return null; // not Linux
  }
}

/** Share of the cores that other processes take from now until the function that it gives is called; NaN where that cannot be known. */
export function watchOthers(): () => number {
  const before = cpuTime();
  return () => {
    const after = cpuTime();
    if (!before || !after) return Number.NaN;
    const foreign = after.busy - before.busy - (after.own - before.own);
    return Math.max(0, foreign / Math.max(1, after.all - before.all));
  };
}

/** Processes that want a core, mean of the last minute. */
export function load(): number {
  return Math.round((loadavg()[0] ?? 0) * 100) / 100;
}
