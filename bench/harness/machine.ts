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

/** Processes that want a core, mean of the last minute. */
export function load(): number {
  return Math.round((loadavg()[0] ?? 0) * 100) / 100;
}
