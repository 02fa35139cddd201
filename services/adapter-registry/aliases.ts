// Aliases: names for versions that can be moved. It knows neither gRPC nor SQL.
import { aliasName, notFound } from "./names.ts";
import type { AliasRecord, Store, VersionRecord } from "./store.ts";

export class Aliases {
  readonly #now: () => number;
  readonly #store: Store;

  constructor(now: () => number, store: Store) {
    this.#now = now;
    this.#store = store;
  }

  /** Moves or makes an alias; one that already points there stays as it is. */
  set(alias: { adapterId: string; id: string; version: number }, etag: string): Promise<AliasRecord> {
    const { adapterId } = alias;
    return this.#store.putAlias(alias, { adapterId, etag, nowMs: this.#now() });
  }

  delete({ adapterId, id }: { adapterId: string; id: string }, etag: string): Promise<void> {
    return this.#store.removeAlias(id, { adapterId, etag, nowMs: this.#now() });
  }

  async resolve(name: { adapterId: string; id: string }): Promise<{ alias: AliasRecord; version: VersionRecord }> {
    const [adapter] = await this.#store.adapters({ id: name.adapterId });
    const alias = adapter?.aliases.find(({ id }) => id === name.id);
    if (!alias) throw notFound(aliasName(name), "resolve_alias");
    const [version] = await this.#store.versions({ adapterId: name.adapterId, number: alias.version });
    if (version) return { alias, version };
    // It was moved and its version removed between the two reads.
    return this.resolve(name);
  }
}
