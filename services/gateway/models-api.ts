// GET /v1/models and one of them.
import { type Answer, type Request, type Route, route } from "#packages/http";
import { modelNotFound } from "./errors.ts";
import type { Keys } from "./keys.ts";
import type { ModelEntry, Models } from "./models.ts";

function view({ id, createdMs, parent }: ModelEntry) {
  const created = Math.floor(createdMs / 1000);
  return { id, object: "model", created, owned_by: "nibble", ...(parent === null ? {} : { parent }) };
}

export class ModelsApi {
  readonly #models: Models;
  readonly #keys: Keys;

  constructor(models: Models, keys: Keys) {
    this.#models = models;
    this.#keys = keys;
  }

  routes(): Route[] {
    return [
      ...route("GET", "/v1/models", (request) => this.#list(request)),
      ...route("GET", "/v1/models/:model", (request) => this.#get(request)),
    ];
  }

  async #list({ headers, signal }: Request): Promise<Answer> {
    this.#keys.callerOf(headers);
    return { json: { object: "list", data: (await this.#models.list(signal)).map(view) } };
  }

  /** One of the list, or a version, which the list leaves out. */
  async #get({ headers, signal, params }: Request): Promise<Answer> {
    this.#keys.callerOf(headers);
    const { model: name = "" } = params;
    const entry = await this.#models.find(name, signal);
    if (!entry) throw modelNotFound(name, "see /v1/models");
    return { json: view(entry) };
  }
}
