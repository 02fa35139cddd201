// How much more memory this process can take, and what says so: the machine, its control groups, its resource limits.
import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface Available {
  bytes: number;
  /** What sets it, for people: "the machine", "the control group", … */
  by: string;
}

/** Where the system says it; tests give folders of their own. */
export interface MemorySources {
  proc: string;
  cgroup: string;
}

const system: MemorySources = { proc: "/proc", cgroup: "/sys/fs/cgroup" };

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // another system, or no right to look: then that says nothing
  }
}

/** "MemAvailable:  123 kB" of a file under /proc as bytes; NaN where there is no such line. */
export function kilobytes(text: string, key: string): number {
  const found = new RegExp(`^${key}:\\s+(\\d+) kB$`, "m").exec(text);
  return found ? Number(found[1]) * 1024 : Number.NaN;
}

/** What is left of a limit; a file that says "max" or nothing limits nothing. */
function rest(limit: string, used: string, reclaimable: number): number {
  if (!/^\d+\s*$/.test(limit) || !/^\d+\s*$/.test(used)) return Number.POSITIVE_INFINITY;
  return Number(limit) - (Number(used) - reclaimable);
}

function stat(text: string, key: string): number {
  return Number(new RegExp(`^${key} (\\d+)$`, "m").exec(text)?.[1] ?? 0);
}

/** This group and those it lies in. In a container the path may be the host's: then only the root is there. */
function folders(root: string, path: string): string[] {
  const parts = path.split("/").filter((part) => part !== "" && part !== "..");
  return Array.from({ length: parts.length + 1 }, (_, i) => join(root, ...parts.slice(0, i)));
}

/** The least that any group leaves; file pages that it could drop are not counted as used. */
function ofGroups({ proc, cgroup }: MemorySources): number {
  const lines = read(join(proc, "self/cgroup"))
    .split("\n")
    .map((line) => line.split(":"));
  const second = lines.find(([id, controllers]) => id === "0" && controllers === "")?.[2];
  const first = lines.find(([, controllers]) => controllers?.split(",").includes("memory"))?.[2];
  const left: number[] = [];
  for (const folder of second === undefined ? [] : folders(cgroup, second)) {
    const inactive = stat(read(join(folder, "memory.stat")), "inactive_file");
    left.push(rest(read(join(folder, "memory.max")), read(join(folder, "memory.current")), inactive));
  }
  for (const folder of first === undefined ? [] : folders(join(cgroup, "memory"), first)) {
    const inactive = stat(read(join(folder, "memory.stat")), "total_inactive_file");
    const limit = read(join(folder, "memory.limit_in_bytes"));
    left.push(rest(limit, read(join(folder, "memory.usage_in_bytes")), inactive));
  }
  return Math.min(...left);
}

/** Of setrlimit(2): address space, and writable private memory. Shared mappings, such as spill files, are not data. */
function ofLimits(proc: string): number {
  const limits = read(join(proc, "self/limits"));
  const status = read(join(proc, "self/status"));
  const left = (name: string, used: string) => {
    const soft = new RegExp(`^${name}\\s+(\\d+)\\s`, "m").exec(limits)?.[1];
    return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft) - kilobytes(status, used);
  };
  return Math.min(left("Max address space", "VmSize"), left("Max data size", "VmData"));
}

/**
 * @param limit most bytes that the process may take, as its user says; null: no such limit.
 * @param rss bytes that it takes now.
 */
export function availableMemory(limit: number | null, rss: number, sources: MemorySources = system): Available {
  const machine = kilobytes(read(join(sources.proc, "meminfo")), "MemAvailable");
  const all: Available[] = [
    { bytes: Number.isFinite(machine) ? machine : Number.POSITIVE_INFINITY, by: "the machine" },
    { bytes: ofGroups(sources), by: "the control group" },
    { bytes: ofLimits(sources.proc), by: "a resource limit (ulimit)" },
    { bytes: limit === null ? Number.POSITIVE_INFINITY : limit - rss, by: "memory_limit" },
  ];
  const least = all.reduce((a, b) => (b.bytes < a.bytes ? b : a));
  return { ...least, bytes: Math.max(0, least.bytes) };
}
