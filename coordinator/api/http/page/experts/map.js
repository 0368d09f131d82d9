// The canvas: a cell for each expert, layers downwards, and beside each layer how unevenly it loads the workers.
//
// Everything is laid out in device pixels, so that cells are crisp on any screen: a cell is a whole number of them.

import { css, ownerColour } from "../colours.js";
import { short } from "../figures.js";
import { isDark } from "../theme.js";
import { MOVED_SECONDS } from "./figures.js";

const [LEFT, TOP, GAP, BARS, MOST_BARS, END] = [30, 18, 10, 64, 160, 2]; // around the map, in CSS pixels
const [MOST_WIDTH, MOST_HEIGHT, LEAST_HEIGHT] = [44, 18, 2]; // of a cell
const WISHED_HEIGHT = 520; // of all layers
const FADING_MILLISECONDS = 100; // between two looks of what grows fainter: thousands may move at once

/** Draws into the two canvases of `frame`; the upper one carries the cursor and what moves. */
export class MapDrawing {
  constructor(frame) {
    this.frame = frame;
    [this.base, this.over] = frame.querySelectorAll("canvas");
    this.isStill = matchMedia("(prefers-reduced-motion: reduce)");
    this.cursor = null;
    this.layer = null; // chosen
  }

  /** `bars`: {values: [L] of 1 and more, owners: [L]}. */
  draw(experts, painter, bars) {
    this.experts = experts;
    this.lay();
    const context = this.base.getContext("2d");
    context.clearRect(0, 0, this.base.width, this.base.height);
    this.drawCells(context, painter);
    this.drawLabels(context);
    this.drawBars(context, bars);
    this.drawOver();
  }

  lay() {
    const ratio = window.devicePixelRatio || 1;
    const { layers, experts } = this.experts;
    const narrow = this.frame.clientWidth < 500;
    const px = (size) => Math.round(size * ratio);
    const [left, top, gap, least] = [px(narrow ? 22 : LEFT), px(TOP), px(narrow ? 6 : GAP), px(narrow ? 34 : BARS)];
    const wide = Math.floor(this.frame.clientWidth * ratio);
    const room = wide - left - gap - least - px(END);
    const width = Math.max(1, Math.min(px(MOST_WIDTH), Math.floor(room / experts)));
    const height = Math.max(px(LEAST_HEIGHT), Math.min(px(MOST_HEIGHT), Math.round(px(WISHED_HEIGHT) / layers), Math.max(width, px(4))));
    const bars = Math.min(px(MOST_BARS), wide - px(END) - left - gap - width * experts);
    this.g = { ratio, left, top, gap, bars, width, height, rows: layers, columns: experts, space: width >= 4 ? 1 : 0, spaceBelow: height >= 4 ? 1 : 0 };
    const size = [left + width * experts + gap + bars + px(END), top + height * layers + px(END)];
    for (const canvas of [this.base, this.over]) {
      if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
      canvas.style.width = `${size[0] / ratio}px`;
      canvas.style.height = `${size[1] / ratio}px`;
    }
    Object.assign(this.base.dataset, { left, top, cellWidth: width, cellHeight: height });
  }

  drawCells(context, painter) {
    const { left, top, width, height, rows, columns, space, spaceBelow } = this.g;
    const image = context.createImageData(width * columns, height * rows);
    const pixels = new Uint32Array(image.data.buffer);
    for (let index = 0; index < rows * columns; index++) {
      const colours = painter.colours(index);
      const start = Math.floor(index / columns) * height * image.width + (index % columns) * width;
      const wide = width - space;
      for (let part = 0; part < colours.length; part++) {
        const from = Math.floor((wide * part) / colours.length);
        const to = Math.floor((wide * (part + 1)) / colours.length);
        for (let y = 0; y < height - spaceBelow; y++) {
          const row = start + y * image.width;
          pixels.fill(colours[part], row + from, row + to);
        }
      }
    }
    context.putImageData(image, left, top);
  }

  drawLabels(context) {
    const { left, top, width, height, rows, columns, ratio } = this.g;
    this.write(context);
    context.textAlign = "right";
    context.textBaseline = "middle";
    const layerStep = step(rows, height, 14 * ratio);
    for (let layer = 0; layer < rows; layer += layerStep) context.fillText(layer, left - 6 * ratio, top + (layer + 0.5) * height);
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    const expertStep = step(columns, width, 24 * ratio);
    for (let expert = 0; expert < columns; expert += expertStep) context.fillText(expert, left + (expert + 0.5) * width, top - 6 * ratio);
  }

  drawBars(context, { values, owners, most }) {
    const { left, top, gap, bars, width, height, columns, spaceBelow, ratio } = this.g;
    const start = left + width * columns + gap;
    this.write(context);
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    context.fillText("1", start - 2 * ratio, top - 6 * ratio);
    context.textAlign = "right";
    context.fillText(`${short(most)} ×`, start + bars, top - 6 * ratio);
    const muted = getComputedStyle(this.frame).getPropertyValue("color");
    values.forEach((value, layer) => {
      context.fillStyle = owners[layer] < 0 ? muted : css(ownerColour(owners[layer], isDark()));
      const length = Math.round(((value - 1) / (most - 1)) * bars);
      context.fillRect(start, top + layer * height, Math.max(length, Math.round(ratio)), height - spaceBelow);
    });
  }

  write(context) {
    context.font = `${11 * this.g.ratio}px ${getComputedStyle(this.frame).fontFamily}`;
    context.fillStyle = getComputedStyle(this.frame).color;
  }

  /** The cursor, the chosen layer, and what moves; the latter goes on by itself until it is over. */
  drawOver() {
    const context = this.over.getContext("2d");
    context.clearRect(0, 0, this.over.width, this.over.height);
    const { left, top, width, height, columns, rows, ratio } = this.g;
    const strong = getComputedStyle(this.base).color;
    context.strokeStyle = context.fillStyle = strong;
    const line = Math.max(1, Math.round(ratio));
    if (this.layer !== null && this.layer < rows) {
      context.lineWidth = line;
      context.strokeRect(left - line, top + this.layer * height - line, width * columns + line, height + line);
    }
    const isMoving = this.drawMoves(context, line);
    if (this.cursor && this.cursor.layer < rows) {
      const [x, y] = [left + this.cursor.expert * width, top + this.cursor.layer * height];
      context.lineWidth = 2 * line;
      context.strokeRect(x - line, y - line, width + line, height + line);
      context.fillRect(x, top - 4 * ratio, width - 1, 3 * ratio);
      context.fillRect(left - 4 * ratio, y, 3 * ratio, height - 1);
    }
    if (isMoving && !this.waiting) {
      this.waiting = true;
      const again = () => {
        this.waiting = false;
        this.drawOver();
      };
      setTimeout(again, this.isStill.matches ? 1000 : FADING_MILLISECONDS);
    }
  }

  /** A ring around each that moved lately, of ink on paper, so that it is seen in every colour; it grows fainter, but where motion is not wanted. */
  drawMoves(context, line) {
    const { left, top, width, height, columns, space, spaceBelow } = this.g;
    const { movedNow } = this.experts;
    const paper = getComputedStyle(document.body).backgroundColor;
    for (const [index, at] of movedNow) {
      const passed = (performance.now() - at) / 1000 / MOVED_SECONDS;
      if (passed >= 1) {
        movedNow.delete(index);
        continue;
      }
      const [x, y] = [left + (index % columns) * width, top + Math.floor(index / columns) * height];
      const [wide, high] = [width - space, height - spaceBelow];
      context.globalAlpha = this.isStill.matches ? 1 : 1 - passed ** 3;
      context.lineWidth = line;
      context.strokeStyle = paper;
      context.strokeRect(x - 2.5 * line, y - 2.5 * line, wide + 5 * line, high + 5 * line);
      context.strokeStyle = context.fillStyle;
      context.strokeRect(x - 1.5 * line, y - 1.5 * line, wide + 3 * line, high + 3 * line);
    }
    context.globalAlpha = 1;
    return movedNow.size > 0;
  }

  /** The expert below a pointer; its number is -1 beside the cells, and the whole null beside the layers. */
  cellAt(event) {
    const box = this.base.getBoundingClientRect();
    const { ratio, left, top, width, height, rows, columns } = this.g;
    const layer = Math.floor(((event.clientY - box.top) * ratio - top) / height);
    const expert = Math.floor(((event.clientX - box.left) * ratio - left) / width);
    if (layer < 0 || layer >= rows) return null;
    return { layer, expert: expert < 0 || expert >= columns ? -1 : expert };
  }
}

/** How many to leave between two labels so that they are `least` apart. */
function step(many, size, least) {
  return [1, 2, 4, 8, 16, 32, 64, 128, 256].find((every) => every * size >= least) ?? many;
}
