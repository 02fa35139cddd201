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
      this.#running.delete(key);
    }
  }
}
