// Measures a page with everything unfolded, and tells the page around it. NAME and READABLE are set before.
const wrong = [];
addEventListener("error", (event) => wrong.push(event.message));
addEventListener("securitypolicyviolation", (event) => wrong.push(event.violatedDirective));
addEventListener("load", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  const light = ([r, g, b]) => {
    const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  };
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = numbers(getComputedStyle(each).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
  };
  const faint = [];
  for (const each of document.body.querySelectorAll("*")) {
    const text = [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || each.closest("title, script") || !each.getClientRects().length) continue;
    const style = getComputedStyle(each);
    const [a, b] = [style[each.closest("svg") ? "fill" : "color"], behind(each)];
    const [one, other] = [light(numbers(a)), light(b)].sort((x, y) => y - x);
    if ((one + 0.05) / (other + 0.05) < READABLE) faint.push(`${each.tagName}.${each.className}: ${each.textContent}`);
  }
  parent.postMessage({
    name: NAME,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    wrong,
    lost: [...document.querySelectorAll("a[href^='#']")].map((a) => a.getAttribute("href").slice(1))
      .filter((id) => !document.getElementById(id)),
    twice: [...document.querySelectorAll("[id]")].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i),
    faint: faint.slice(0, 5),
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    buttons: document.querySelectorAll("pre + button").length - document.querySelectorAll("pre").length,
    code: document.querySelectorAll("pre").length,
  }, "*");
});
