// Ctrl-C and SIGTERM as an AbortSignal. It knows nothing of what is being stopped.
import { NibbleError } from "#packages/errors";

/** A terminal sends Ctrl-C to every process of the job and npm passes it on, so one press arrives several times. */
const sameMs = 1000;

/** How a process ends that was told to stop: 128 and the signal's number, as shells have it. */
const exitCodeOf = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

export interface Interrupt {
  signal: AbortSignal;
  /** Undefined until the process was told to stop. */
  readonly exitCode: number | undefined;
}

/** The first signal aborts; one that comes later again ends the process at once. */
export function interruptOf(process: NodeJS.Process, op = "nibble"): Interrupt {
  const controller = new AbortController();
  let exitCode: number | undefined;
  let since = 0;
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => {
      if (exitCode !== undefined) {
        if (performance.now() - since > sameMs) process.exit(exitCode);
        return;
      }
      exitCode = exitCodeOf[name];
      since = performance.now();
      controller.abort(new NibbleError("cancelled", { code: "CANCELLED", op }));
    });
  }
  return {
    signal: controller.signal,
    get exitCode() {
      return exitCode;
    },
  };
}
