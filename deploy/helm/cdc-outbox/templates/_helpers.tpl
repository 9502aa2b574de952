{{/* A value as text. Numbers of values are floats: 1000000 would become 1e+06. */}}
{{- define "cdc-outbox.text" -}}
{{- if kindIs "float64" . -}}
{{- if eq . (floor .) }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end -}}
{{- else if kindIs "slice" . -}}
{{- join "," . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end }}

{{/* A relay with its defaults, its full name and its number of shards (0: none), as YAML. In: list of the root and the relay. */}}
{{- define "cdc-outbox.relay" -}}
{{- $root := index . 0 }}
{{- $own := index . 1 }}
{{- $relay := deepCopy $root.Values.defaults }}
{{- range $key, $value := $own }}
{{- if and (kindIs "map" $value) (kindIs "map" (get $relay $key)) (ne $key "resources") }}
{{- range $name, $each := $value }}
{{- $_ := set (get $relay $key) $name $each }}
{{- end }}
{{- else }}
{{- $_ := set $relay $key $value }}
{{- end }}
{{- end }}
{{- $shards := int (default 0 $own.shards) }}
{{- $_ := set $relay "count" $shards }}
{{- $full := printf "%s-%s" $root.Release.Name $own.name }}
{{- if $shards }}{{ $full = printf "%s-of-%d" $full $shards }}{{ end }}
{{- if gt (len $full) 52 }}
{{- fail (printf "relay %s: the name %s has more than 52 characters, the limit for pods of a StatefulSet: choose a shorter name for the relay or the release" $own.name $full) }}
{{- end }}
{{- if not $relay.brokers }}
{{- fail (printf "relay %s has no brokers: set relays[].brokers or defaults.brokers to host:port" $own.name) }}
{{- end }}
{{- if not $relay.secret.name }}
{{- fail (printf "relay %s has no secret: set relays[].secret.name to a Secret whose key %s is the connection string" $own.name $relay.secret.key) }}
{{- end }}
{{- if and $shards (or (hasKey $relay.options "prune-after") (hasKey $relay.options "partitions-ahead") (ne "table" (default "table" $relay.options.source))) }}
{{- fail (printf "relay %s has shards, and its options or defaults.options have prune-after, partitions-ahead or another source than table: shards exclude them" $own.name) }}
{{- end }}
{{- $_ := set $relay "full" $full }}
{{- toYaml $relay }}
{{- end }}

{{/* Fails for two relays of one name. */}}
{{- define "cdc-outbox.unique" -}}
{{- $seen := dict }}
{{- range .Values.relays }}
{{- if hasKey $seen .name }}
{{- fail (printf "two relays are named %s: each needs a name of its own" .name) }}
{{- end }}
{{- $_ := set $seen .name true }}
{{- end }}
{{- end }}

{{- define "cdc-outbox.image" -}}
{{- $image := .Values.image }}
{{- if not $image.repository }}
{{- fail "image.repository is empty: set it to the image in your registry, such as registry.example.com/cdc-outbox" }}
{{- end }}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end }}
{{- end }}

{{/* Labels of every object of the release. */}}
{{- define "cdc-outbox.labels" -}}
app.kubernetes.io/part-of: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels that select the pods of a relay. A set with another number of shards is another instance. In: the full name. */}}
{{- define "cdc-outbox.selector" -}}
app.kubernetes.io/name: cdc-outbox
app.kubernetes.io/instance: {{ . }}
{{- end }}

{{/* The settings, inline: the job before an upgrade needs those of the new values. In: list of the relay and the field with a shard's number. */}}
{{- define "cdc-outbox.env" -}}
{{- $relay := index . 0 }}
{{- if $relay.count }}
- name: POD_INDEX
  valueFrom:
    fieldRef: {fieldPath: {{ index . 1 | quote }}}
- name: CDC_OUTBOX_SHARD
  value: $(POD_INDEX)/{{ $relay.count }}
{{- end }}
- name: CDC_OUTBOX_BROKERS
  value: {{ $relay.brokers | quote }}
- name: CDC_OUTBOX_DSN_FILE
  value: /run/secrets/cdc-outbox/{{ $relay.secret.key }}
{{- range $name, $value := $relay.options }}
- name: CDC_OUTBOX_{{ $name | upper | replace "-" "_" }}
  value: {{ include "cdc-outbox.text" $value | quote }}
{{- end }}
{{- range $name, $value := $relay.kafka }}
- name: CDC_OUTBOX_KAFKA_{{ $name | upper | replace "." "_" }}
  value: {{ include "cdc-outbox.text" $value | quote }}
{{- end }}
{{- range $name, $key := $relay.kafkaSecrets }}
- name: CDC_OUTBOX_KAFKA_{{ $name | upper | replace "." "_" }}_FILE
  value: /run/secrets/cdc-outbox/{{ $key }}
{{- end }}
{{- range $name, $value := $relay.env }}
- name: {{ $name }}
  value: {{ include "cdc-outbox.text" $value | quote }}
{{- end }}
{{- end }}

{{/* What the pods of relays and of the check share: who they are, and what they may do. In: list of the root and the relay. */}}
{{- define "cdc-outbox.pod" -}}
{{- $root := index . 0 }}
{{- $relay := index . 1 -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $relay.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $relay.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $relay.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $relay.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
volumes:
  - name: secrets
    secret: {secretName: {{ $relay.secret.name }}, defaultMode: 0440}
{{- end }}

{{/* What their containers share. In: list of the root, the relay, and the field with a shard's number. */}}
{{- define "cdc-outbox.container" -}}
{{- $root := index . 0 }}
{{- $relay := index . 1 -}}
image: {{ include "cdc-outbox.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
env: {{- include "cdc-outbox.env" (list $relay (index . 2)) | trim | nindent 2 }}
resources: {{- toYaml $relay.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: secrets, mountPath: /run/secrets/cdc-outbox, readOnly: true}
{{- end }}

{{/* The pod template of a relay. In: list of the root and the relay. */}}
{{- define "cdc-outbox.template" -}}
{{- $root := index . 0 }}
{{- $relay := index . 1 -}}
metadata:
  labels: {{- include "cdc-outbox.selector" $relay.full | nindent 4 }}
    app.kubernetes.io/part-of: {{ $root.Release.Name }}
  {{- with $relay.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec: {{- include "cdc-outbox.pod" . | nindent 2 }}
  serviceAccountName: {{ $root.Release.Name }}
  terminationGracePeriodSeconds: {{ $relay.terminationGracePeriodSeconds }}
  {{- if or $relay.count (gt (int $relay.replicas) 1) }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          app.kubernetes.io/name: cdc-outbox
      matchLabelKeys: [app.kubernetes.io/instance]
  {{- end }}
  containers:
    - name: relay {{- include "cdc-outbox.container" (list $root $relay "metadata.labels['apps.kubernetes.io/pod-index']") | nindent 6 }}
      ports:
        - {name: http, containerPort: 8420}
      # All by /livez: it asks whether the relay's own loop turns. A PostgreSQL or a Kafka that is away is no reason to restart.
      startupProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 1
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      # Ready: it streams, or stands by.
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 5
{{- end }}
