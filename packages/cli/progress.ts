// Progress of long commands on stderr: one line that is rewritten where it is a terminal, a plain line every few
// steps where it is a log.
import type { TrainProgress } from "./backend.ts";
import { bytes, count, duration } from "./format.ts";
import { type Io, line } from "./io.ts";

/** Lines of a whole run in a log. */
const linesMax = 20;
/** A line of progress with it fits into 80 columns. */
const barWidth = 16;
const columnsDefault = 80;

/** A line at the bottom of a terminal that is written again and again. */
export class StatusLine {
  private readonly stream: Io["stderr"];
  readonly isLive: boolean;
  private shown = false;

  constructor(io: Io) {
    this.stream = io.stderr;
    this.isLive = io.stderr.isTTY === true && io.env["TERM"] !== "dumb";
  }

  /** Nothing on a stream that is no terminal. */
  show(text: string): void {
    if (!this.isLive) return;
    this.shown = true;
    this.stream.write(`\r\x1b[K${text.slice(0, (this.stream.columns ?? columnsDefault) - 1)}`);
  }

  /** A line that stays, above the status. */
  print(text: string): void {
    this.clear();
    line(this.stream, text);
  }

  clear(): void {
    if (this.shown) this.stream.write("\r\x1b[K");
    this.shown = false;
  }
}

export function bar(part: number, width = barWidth): string {
  const full = Math.round(Math.min(1, Math.max(0, part)) * width);
  return "█".repeat(full) + "░".repeat(width - full);
}

/** How far work that goes tensor by tensor is. */
interface TensorProgress {
  tensorsDone: number;
  tensorsTotal: number;
  bytesPulled?: number;
  bytesToPull?: number;
}

/** Of the tensors; before the first, of the bytes that have to come from the Hub. */
export function tensorBar({ tensorsDone, tensorsTotal, bytesPulled = 0, bytesToPull = 0 }: TensorProgress): string {
  if (tensorsTotal === 0 && bytesToPull > 0) {
    return `${bar(bytesPulled / bytesToPull)}  ${bytes(bytesPulled)} of ${bytes(bytesToPull)} pulled`;
  }
  return `${bar(tensorsDone / Math.max(1, tensorsTotal))}  ${tensorsDone}/${tensorsTotal} tensors`;
}

/** A training run's events as they come: step, loss, tokens a second, memory, time left. */
export class TrainReporter {
  private readonly status: StatusLine;
  private secondsPerStep = 0;

  constructor(io: Io) {
    this.status = new StatusLine(io);
  }

  event(event: TrainProgress): void {
    if (event.kind === "log") {
      this.status.print(event.severity === "warning" ? `warning: ${event.text}` : event.text);
    } else if (event.kind === "eval") {
      const { step, loss, tokens, seconds } = event;
      const when = step === 0 ? "before training" : `after step ${step}`;
      this.status.print(`held-out loss ${when}: ${loss.toFixed(4)} (${count(tokens)} tokens, ${duration(seconds)})`);
    } else if (event.kind === "checkpoint") {
      this.status.print(`checkpoint after step ${event.step}: ${event.dir}`);
    } else {
      this.step(event);
    }
  }

  private step(event: TrainProgress & { kind: "step" }): void {
    const { step, steps, loss, tokensPerSecond, seconds, memoryBytes } = event;
    // The last few steps tell the pace best: rows differ in length.
    this.secondsPerStep = this.secondsPerStep === 0 ? seconds : 0.9 * this.secondsPerStep + 0.1 * seconds;
    const left = (steps - step) * this.secondsPerStep;
    const text = [
      `loss ${loss.toFixed(4)}`,
      `${count(tokensPerSecond)} tokens/s`,
      bytes(memoryBytes),
      step === steps ? "done" : `${duration(left)} left`,
    ].join("  ");
    const place = `step ${String(step).padStart(String(steps).length)}/${steps}`;
    if (this.status.isLive) this.status.show(`${place} ${bar(step / steps)}  ${text}`);
    else if (isWorthALine(step, steps)) this.status.print(`${place}  ${text}`);
  }

  /** Leaves the terminal's line free. */
  end(): void {
    this.status.clear();
  }
}

function isWorthALine(step: number, steps: number): boolean {
  return step === 1 || step === steps || step % Math.max(1, Math.ceil(steps / linesMax)) === 0;
}
