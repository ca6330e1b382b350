// The text of the page with the least contrast to its ground, as WCAG 2 measures it:
// {ratio, text, where}. Grounds and texts are opaque; anything else would be reported as 0.
() => {
  const channels = (colour) => {
    const found = /^rgba?\((\d+), (\d+), (\d+)(?:, ([\d.]+))?\)$/.exec(colour);
    if (!found) return null;
    return { rgb: found.slice(1, 4).map(Number), alpha: Number(found[4] ?? 1) };
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const groundOf = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      const ground = channels(style.backgroundColor);
      if (!ground || Number(style.opacity) !== 1) return null;
      if (ground.alpha === 1) return ground.rgb;
      if (ground.alpha !== 0) return null;
    }
    return null;
  };
  const ratioOf = (element, pseudo) => {
    const colour = channels(getComputedStyle(element, pseudo).color);
    const ground = groundOf(element);
    if (!colour || colour.alpha !== 1 || !ground) return 0;
    const [light, dark] = [luminance(colour.rgb), luminance(ground)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  let worst = { ratio: 21, text: "", where: "" };
  const note = (element, text, pseudo) => {
    const ratio = ratioOf(element, pseudo);
    if (ratio < worst.ratio) worst = { ratio, text: text.slice(0, 60), where: element.className || element.id || element.tagName };
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (text && element.checkVisibility() && element.getBoundingClientRect().width > 1) note(element, text);
  }
  for (const field of document.querySelectorAll("textarea, select, input[type=password]")) {
    if (!field.checkVisibility()) continue;
    note(field, field.value || "field");
    if (field.placeholder) note(field, field.placeholder, "::placeholder");
  }
  return worst;
}
