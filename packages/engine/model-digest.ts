// The digest of a model that is loaded, made when it is first asked for: it reads every byte once more, which is more
// than loading a mapped model costs, and who only generates text does not need it.
import { digestOfModel, type ModelFolder } from "#packages/hub";

export class ModelDigest {
  private folder: ModelFolder | null;
  private known: string | null;

  private constructor(folder: ModelFolder | null, known: string | null) {
    this.folder = folder;
    this.known = known;
  }

  /** Of a model whose weights are those of the folder. It takes the folder over and keeps it open: a file that takes the place of another is not the one that was loaded. */
  static of(folder: ModelFolder): ModelDigest {
    return new ModelDigest(folder, null);
  }

  /** One that was made while the model was loaded. */
  static known(digest: string): ModelDigest {
    return new ModelDigest(null, digest);
  }

  get value(): string {
    if (this.known !== null) return this.known;
    if (this.folder === null) throw new RangeError("[model_digest] the model is closed");
    this.known = digestOfModel(this.folder);
    this.close();
    return this.known;
  }

  close(): void {
    this.folder?.close();
    this.folder = null;
  }
}
