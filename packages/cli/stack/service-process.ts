// A service as a child process: started, waited for until it listens, stopped. It knows no service by name.
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { NibbleError } from "#packages/errors";

/** After SIGTERM; a service drains for 10 s itself. */
const stopMsMax = 15_000;
const startMsMax = 60_000;
const leash = fileURLToPath(new URL("leash.ts", import.meta.url));

export interface ServiceOptions {
  name: string;
  /** Its main.ts. */
  script: string;
  env: Record<string, string>;
  /** Each line of its log, JSON. */
  onLog?: (line: string) => void;
  signal?: AbortSignal;
}

interface LogLine {
  level?: number;
  msg?: string;
  address?: string;
}

function parsed(text: string): LogLine {
  try {
    return JSON.parse(text) as LogLine;
  } catch {
    return { msg: text };
  }
}

const fatalLevel = 60;

export class ServiceProcess {
  readonly name: string;
  /** host:port. */
  readonly address: string;
  readonly exited: Promise<void>;
  private readonly child: ChildProcess;

  private constructor(name: string, address: string, child: ChildProcess, exited: Promise<void>) {
    this.name = name;
    this.address = address;
    this.child = child;
    this.exited = exited;
  }

  /** Resolves when the service listens. @throws what it said when it could not start. */
  static async start({ name, script, env, onLog, signal }: ServiceOptions): Promise<ServiceProcess> {
    signal?.throwIfAborted();
    // In a process group of its own: Ctrl-C goes to the parent, which stops the services in order.
    const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", "--import", leash, script], {
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      env: { ...process.env, ...env },
      detached: true,
    });
    const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
    const listening = Promise.withResolvers<string>();
    let reason = "";
    for (const stream of [child.stdout, child.stderr]) {
      if (!stream) continue;
      createInterface({ input: stream }).on("line", (text) => {
        onLog?.(text);
        const { level = 0, msg = "", address } = parsed(text);
        if (msg === "listening" && address !== undefined) listening.resolve(address);
        if (level >= fatalLevel || (level === 0 && reason === "")) reason = msg;
      });
    }
    const fail = (what: string) =>
      listening.reject(new NibbleError(`${name}: ${what}`, { code: "UNAVAILABLE", op: "start" }));
    child.once("error", (error) => fail(error.message));
    // The last line of the log may come after the exit.
    child.once("close", () => fail(reason === "" ? "ended before it listened" : reason));
    const started = new AbortController();
    const limit = delay(startMsMax, undefined, { signal: started.signal }).then(
      () => fail(`expected it to listen within ${startMsMax / 1000} s`),
      () => {},
    );
    const onAbort = () => listening.reject(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      const address = await listening.promise;
      return new ServiceProcess(name, address, child, exited);
    } catch (thrown) {
      await end(child, exited);
      throw thrown;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      started.abort();
      await limit;
    }
  }

  async stop(): Promise<void> {
    await end(this.child, this.exited);
  }
}

async function end(child: ChildProcess, exited: Promise<void>): Promise<void> {
  if (child.exitCode === null && child.signalCode === null && child.pid !== undefined) {
    child.kill("SIGTERM");
    const inTime = new AbortController();
    const late = delay(stopMsMax, undefined, { signal: inTime.signal }).then(
      () => child.kill("SIGKILL"),
      () => {},
    );
    await exited;
    inTime.abort();
    await late;
  }
  if (child.connected) child.disconnect();
}
