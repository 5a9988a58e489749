import 'dart:convert';

import 'package:continuonbrain/continuonbrain.dart';
import 'package:flutter_test/flutter_test.dart';

import 'golden.dart';

void main() {
  test('every kind of event is understood', () {
    final events = [
      for (final Object? e in jsonDecode(golden('events.json')) as List<Object?>)
        BrainEvent.fromJson(e! as Map<String, Object?>),
    ];
    expect([for (final e in events) e.sequence], [7, 8, 9, 10, 11, 12, 13]);
    expect(
      [for (final e in events) e.kind],
      [
        EventKind.promotion,
        EventKind.rollback,
        EventKind.gate,
        EventKind.training,
        EventKind.safety,
        EventKind.confirm,
        EventKind.revert,
      ],
    );
    expect(
      [for (final e in events) e.changesAdapter],
      [true, true, false, false, false, false, true],
    );
    expect(events[0].versionId, '000003-5c777765');
    expect(events[1].versionId, isEmpty);
    expect(events[2].closed, {'battery': '0.31 is below 0.4'});
    expect(events[3].phase, 'train');
    expect(events[4].reasons, ['stale_chunk']);
  });

  test('an event of a newer service is unknown, and no error', () {
    final event = BrainEvent.fromJson(const {
      'sequence': 1,
      'kind': 'weather',
      'at_unix_s': 1,
      'data': <String, Object?>{},
    });
    expect(event.kind, EventKind.unknown);
  });

  test('a stream is read as the standard says', () async {
    final events = await parseServerSentEvents(
      Stream.fromIterable(const LineSplitter().convert(golden('events.sse'))),
    ).toList();
    expect(
      [for (final e in events) (e.event, e.id)],
      [('gap', null), ('rollback', '8'), ('promotion', '9')],
    );
    final promotion = BrainEvent.fromJson(
      jsonDecode(events.last.data) as Map<String, Object?>,
    );
    expect(promotion.versionId, '000003-5c777765');
  });
}
