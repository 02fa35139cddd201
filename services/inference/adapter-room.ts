// The memory that adapters may take over a base: what is in it, and who goes to disk for whom. Only one may make room at a
// time. It knows no ids, no requests and no engine.
import { NibbleError } from "#packages/errors";
import { orAborted } from "#packages/rpc";

export interface Resident {
  /** Its id in the engine; null while it is on disk. Two that have one id after another are two there. */
  engineId: string | null;
  bytes: number;
  pinned: boolean;
  /** Requests that hold it. */
  users: number;
  loadMs: number;
  lastUseMs: number | null;
  /** Being unloaded or replaced: its requests run to the end, new ones do not get it. */
  isLeaving: boolean;
  /** Another one waits for its bytes: its requests run to the end, new ones wait. */
  makesWay: boolean;
}

const usedLast = (a: Resident, b: Resident) => (a.lastUseMs ?? a.loadMs) - (b.lastUseMs ?? b.loadMs);

const sumOf = (all: Iterable<Resident>) => [...all].reduce((sum, { bytes }) => sum + bytes, 0);

export class AdapterRoom {
  readonly #bytesMax: number;
  readonly #free: (engineId: string) => Promise<number>;
  readonly #all = new Set<Resident>();
  #changed = Promise.withResolvers<void>();

  /** @param bytesMax 0: as many as there are. */
  constructor(bytesMax: number, free: (engineId: string) => Promise<number>) {
    this.#bytesMax = bytesMax;
    this.#free = free;
  }

  get bytes(): number {
    return sumOf(this.#all);
  }

  /** One that the engine has by now or that comes, held by somebody, in room that was made for it. */
  add(one: Resident): void {
    this.#all.add(one);
  }

  /** One that did not come. */
  remove(one: Resident): void {
    this.#all.delete(one);
    this.tell();
  }

  /** Frees one that nobody holds; bytes freed. */
  async drop(one: Resident): Promise<number> {
    const { engineId } = one;
    if (engineId === null) return 0;
    // Nobody may take it from here on.
    one.engineId = null;
    try {
      return await this.#free(engineId);
    } finally {
      this.#all.delete(one);
      this.tell();
    }
  }

  /** One is held by nobody any more: whoever waits for room looks again. */
  tell(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  /**
   * Resolves when there is room for so many bytes. Those that nobody holds go to disk, used longest ago first; if that is
   * not enough, it waits for the requests of the next ones, which get no new ones meanwhile.
   * @throws RESOURCE_EXHAUSTED for what does not fit beside those that are pinned; the signal's reason.
   */
  async make(bytes: number, signal: AbortSignal): Promise<void> {
    if (this.#bytesMax === 0) return;
    try {
      for (;;) {
        const changed = this.#changed.promise;
        this.#checkFits(bytes);
        await this.#dropIdle(bytes);
        if (this.bytes + bytes <= this.#bytesMax) return;
        this.#ask(bytes);
        await orAborted(changed, signal);
      }
    } finally {
      for (const one of this.#all) one.makesWay = false;
    }
  }

  #checkFits(bytes: number): void {
    const pinned = sumOf([...this.#all].filter((one) => one.pinned && !one.isLeaving));
    if (pinned + bytes <= this.#bytesMax) return;
    const beside = pinned === 0 ? "" : ` beside ${pinned} that are pinned`;
    const message = `adapter: expected at most ${this.#bytesMax} bytes of adapters in memory, got one of ${bytes}${beside}`;
    const details = { quota: "bytes of adapters", limit: String(this.#bytesMax) };
    throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op: "load_adapter", details });
  }

  /** Those that may go, used longest ago first. */
  #evictable(): Resident[] {
    return [...this.#all].filter((one) => !one.pinned && !one.isLeaving).sort(usedLast);
  }

  async #dropIdle(bytes: number): Promise<void> {
    for (const one of this.#evictable()) {
      if (this.bytes + bytes <= this.#bytesMax) return;
      // A request may have come for it meanwhile.
      if (one.users === 0) await this.drop(one);
    }
  }

  /** As many make way as are needed beside those that leave by themselves. */
  #ask(bytes: number): void {
    let missing = this.bytes + bytes - this.#bytesMax - sumOf([...this.#all].filter(({ isLeaving }) => isLeaving));
    for (const one of this.#evictable()) {
      if (missing <= 0) return;
      one.makesWay = true;
      missing -= one.bytes;
    }
  }
}
