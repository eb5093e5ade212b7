// @vladmandic/face-api: `faceExpressionNet.predictExpressions` on a tensor, on its WebAssembly backend.

const fs = require('fs');
const path = require('path');
const { SIDE, countWeights, rgb, run } = require('./protocol.js');

const MODULES = process.env.PEER_MODULES;

async function load() {
  const tf = require(path.join(MODULES, '@tensorflow', 'tfjs'));
  require(path.join(MODULES, '@tensorflow', 'tfjs-backend-wasm'));
  const folder = path.join(MODULES, '@vladmandic', 'face-api');
  const { nets } = require(path.join(folder, 'dist', 'face-api.node-wasm.js'));
  await tf.setBackend('wasm');
  await tf.ready();
  await nets.faceExpressionNet.loadFromDisk(path.join(folder, 'model'));

  async function classify(image) {
    const face = tf.tensor3d(rgb(image), [SIDE, SIDE, 3], 'int32');
    const scores = await nets.faceExpressionNet.predictExpressions(face);
    face.dispose();
    return Object.keys(scores).reduce((best, name) => (scores[name] > scores[best] ? name : best));
  }

  const groups = JSON.parse(fs.readFileSync(path.join(folder, 'model', 'face_expression_model-weights_manifest.json')));
  return { classify, parameters: countWeights(groups.flatMap((group) => group.weights)) };
}

run(load);
