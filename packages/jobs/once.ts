// Idempotent creation: calls with one key at the same time share one attempt, so that a client that repeats a request
// before it was answered makes nothing twice. What was made earlier is the caller's to find.
export class Once<T> {
  readonly #running = new Map<string, Promise<T>>();

  async run(key: string, make: () => Promise<T>): Promise<T> {
    const attempt = this.#running.get(key) ?? make();
    this.#running.set(key, attempt);
    try {
      return await attempt;
    } finally {
      // By the time the last sharer comes here, the key may already be a later attempt's.
      if (this.#running.get(key) === attempt) this.#running.delete(key);
    }
  }
}
