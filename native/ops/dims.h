// The letters of shapes, the same in TypeScript, C++, CUDA and the documents:
//   N tokens of a step (documents one after the other, never padded)   C hidden   F feed-forward
//   H query heads   K key/value heads   D head size   V vocabulary   R adapter rank
//   I in-features   O out-features of a linear layer
#pragma once
