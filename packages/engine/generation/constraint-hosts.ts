// Where constraints are compiled and their masks made: threads beside the engine's, so that neither a large schema nor a bad one
// holds up the answers of others. A form is compiled where it is known, else where nothing runs that would have to wait for it,
// in a second thread of its vocabulary if need be.
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { NibbleError } from "#packages/errors";
import type { ConstraintForm } from "./constraint.ts";
import type { FromHost, ToHost, Vocabulary } from "./constraint-worker.ts";
import type { TokenConstraint } from "./sequence.ts";

const op = "constraint";
/** Of one vocabulary: one more than a single one, so that what is new need not wait for what runs. */
const hostsPerVocabulary = 2;
/** Of all vocabularies; more where all of them are in use. */
const hostsMax = 4;
const compileMsMaxDefault = 30_000;
/** Forms of a thread that are remembered as known there. */
const formsMax = 64;

/** One that is used until `free`. */
export interface FreeableConstraint extends TokenConstraint {
  free(): void;
}

class Host {
  readonly key: string;
  /** Constraints that are compiled here or used. */
  readonly live = new Map<number, HostedConstraint>();
  /** Used last at the end. */
  readonly forms = new Set<string>();
  private readonly worker: Worker;
  private readonly onEnd: (host: Host) => void;

  constructor(vocabulary: Vocabulary, onEnd: (host: Host) => void) {
    this.key = vocabulary.key;
    this.onEnd = onEnd;
    this.worker = new Worker(new URL("./constraint-worker.ts", import.meta.url), {
      workerData: vocabulary,
      execArgv: ["--disable-warning=ExperimentalWarning"],
    });
    this.worker.on("message", (message: FromHost) => this.live.get(message.id)?.receive(message));
    this.worker.on("error", (error) => this.end(NibbleError.from(error, op)));
    this.worker.on("exit", () => this.end(new NibbleError("the thread has ended", { code: "INTERNAL", op })));
  }

  know(form: string): void {
    this.forms.delete(form);
    this.forms.add(form);
    const [oldest] = this.forms;
    if (this.forms.size > formsMax && oldest !== undefined) this.forms.delete(oldest);
  }

  send(message: ToHost): void {
    this.worker.postMessage(message);
  }

  /** What is still here fails. */
  end(error: NibbleError): void {
    this.onEnd(this);
    for (const one of [...this.live.values()]) one.fail(error);
    this.live.clear();
    void this.worker.terminate();
  }
}

class HostedConstraint implements FreeableConstraint {
  private readonly host: Host;
  private readonly id: number;
  private bits: Int32Array | null = null;
  private failure: NibbleError | null = null;
  private news = Promise.withResolvers<void>();
  constructor(host: Host, id: number, form: ConstraintForm) {
    this.host = host;
    this.id = id;
    host.live.set(id, this);
    host.send({ kind: "compile", id, form });
  }

  get isReady(): boolean {
    return this.bits !== null || this.failure !== null;
  }

  get mask(): Int32Array {
    if (this.failure) throw this.failure;
    if (this.bits === null) throw new RangeError("[constraint] the mask is not ready");
    return this.bits;
  }

  accept(token: number): void {
    this.bits = null;
    this.news = Promise.withResolvers();
    this.host.send({ kind: "accept", id: this.id, token });
  }

  ready(): Promise<void> {
    return this.isReady ? Promise.resolve() : this.news.promise;
  }

  receive(message: FromHost): void {
    if ("error" in message) this.failure ??= new NibbleError(message.error.message, message.error);
    else this.bits = message.mask;
    this.news.resolve();
  }

  fail(error: NibbleError): void {
    this.failure ??= error;
    this.news.resolve();
  }

  free(): void {
    if (!this.host.live.delete(this.id)) return;
    this.host.send({ kind: "free", id: this.id });
  }
}

export class ConstraintHosts {
  /** Used last at the end. */
  private hosts: Host[] = [];
  private nextId = 1;
  private readonly compileMsMax: number;

  /** @param compileMsMax compiling that takes longer is given up, with its thread. */
  constructor(compileMsMax = compileMsMaxDefault) {
    this.compileMsMax = compileMsMax;
  }

  /**
   * @throws INVALID_ARGUMENT with what is not understood, FAILED_PRECONDITION for a model without an end, NOT_FOUND for one
   * without a tokenizer, the signal's reason.
   */
  async compile(vocabulary: Vocabulary, form: ConstraintForm, signal: AbortSignal): Promise<FreeableConstraint> {
    signal.throwIfAborted();
    const text = JSON.stringify(form);
    const host = this.hostFor(vocabulary, text);
    host.know(text);
    const constraint = new HostedConstraint(host, this.nextId++, form);
    try {
      const isInTime = await within(this.compileMsMax, constraint.ready(), signal);
      signal.throwIfAborted();
      if (!isInTime) host.end(tooLong(this.compileMsMax));
      void constraint.mask;
      return constraint;
    } catch (thrown) {
      host.forms.delete(text);
      constraint.free();
      // Nobody waits for what may take for ever.
      if (signal.aborted && host.live.size === 0) host.end(NibbleError.from(thrown, op));
      throw thrown;
    }
  }

  private hostFor(vocabulary: Vocabulary, form: string): Host {
    const mine = this.hosts.filter(({ key }) => key === vocabulary.key);
    const found =
      mine.find(({ forms }) => forms.has(form)) ??
      mine.find(({ live }) => live.size === 0) ??
      (mine.length < hostsPerVocabulary
        ? this.open(vocabulary)
        : mine.toSorted((a, b) => a.live.size - b.live.size)[0]!);
    this.hosts = [...this.hosts.filter((host) => host !== found), found];
    return found;
  }

  private open(vocabulary: Vocabulary): Host {
    if (this.hosts.length >= hostsMax) this.hosts.find(({ live }) => live.size === 0)?.end(gone());
    return new Host(vocabulary, (ended) => {
      this.hosts = this.hosts.filter((host) => host !== ended);
    });
  }

  /** Ends the threads of a vocabulary that is not used any more. */
  drop(key: string): void {
    for (const host of this.hosts.filter((one) => one.key === key)) host.end(gone());
  }

  close(): void {
    for (const host of this.hosts) host.end(gone());
  }
}

/** Whether the work ends in time; true as well when the signal aborts. */
async function within(ms: number, work: Promise<void>, signal: AbortSignal): Promise<boolean> {
  const ended = new AbortController();
  const late = sleep(ms, false, { signal: AbortSignal.any([signal, ended.signal]) }).catch(() => true);
  const isInTime = await Promise.race([work.then(() => true), late]);
  ended.abort();
  return isInTime;
}

const tooLong = (ms: number) =>
  new NibbleError(`form: expected one that compiles within ${ms} ms`, { code: "INVALID_ARGUMENT", op });

const gone = () => new NibbleError("the model or adapter: is not there any more", { code: "CANCELLED", op });
