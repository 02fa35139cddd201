// Files whose bytes are tensors without a copy; see core/file_mapping.h and Tensor.mapped.
import { addon } from "./addon.ts";

/** An open file, mapped read-only. Processes that map one file share its pages. */
export class MappedFile {
  readonly handle: number;
  readonly byteLength: number;

  /**
   * @param descriptor of the open file, which may be closed afterwards.
   * @param path for messages.
   * @throws DATA_LOSS when the file has another length by now.
   */
  constructor(descriptor: number, byteLength: number, path: string) {
    this.handle = addon.fileMap(descriptor, byteLength, path);
    this.byteLength = byteLength;
  }

  /** Nothing new comes from it; the tensors that did keep it. Harmless a second time. */
  close(): void {
    addon.fileUnmap(this.handle);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
