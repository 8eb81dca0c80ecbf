variable "project_id" {
  description = "Project that everything is made in. Give each environment its own."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id is 6 to 30 of a-z, 0-9 and -, beginning with a letter."
  }
}

variable "environment" {
  description = "Which of the environments this is: dev, staging or prod."
  type        = string

  validation {
    condition     = contains(["dev", "staging", "prod"], var.environment)
    error_message = "environment must be dev, staging or prod."
  }
}

variable "region" {
  description = "Region of everything, such as europe-west4. Look first whether it has the GPUs that are wanted."
  type        = string
}

variable "zones" {
  description = "Zones of the machines without a GPU; empty lets GKE choose three."
  type        = list(string)
  default     = []
}

variable "namespace" {
  description = "Namespace of the Helm release."
  type        = string
  default     = "strongroom"
}

variable "release" {
  description = "Name of the Helm release."
  type        = string
  default     = "strongroom"
}

variable "nodes_cidr" {
  description = "Addresses of the machines."
  type        = string
  default     = "10.10.0.0/20"
}

variable "pods_cidr" {
  description = "Addresses of the pods."
  type        = string
  default     = "10.16.0.0/14"
}

variable "services_cidr" {
  description = "Addresses of the services inside the cluster."
  type        = string
  default     = "10.20.0.0/20"
}

variable "control_plane_cidr" {
  description = "Addresses of the control plane, a /28."
  type        = string
  default     = "172.16.0.0/28"
}

variable "private_endpoint" {
  description = "Whether the control plane has no public address."
  type        = bool
  default     = false
}

variable "authorized_networks" {
  description = "Networks that may reach the control plane, by a name for each: an office, a VPN, a runner."
  type        = map(string)
}

variable "release_channel" {
  description = "How new the versions of Kubernetes are."
  type        = string
  default     = "REGULAR"
}

variable "binary_authorization" {
  description = "Whether only images that the project's policy lets in are started."
  type        = bool
  default     = false
}

variable "maintenance_start" {
  description = "When the weekly window for upgrades begins (RFC 3339)."
  type        = string
  default     = "2026-01-03T02:00:00Z"
}

variable "maintenance_end" {
  description = "When the first of these windows ends (RFC 3339)."
  type        = string
  default     = "2026-01-03T08:00:00Z"
}

variable "general_pool" {
  description = "The pool of everything without a GPU. Counts are per zone."
  type = object({
    machine_type = string
    min_nodes    = number
    max_nodes    = number
    disk_size_gb = optional(number, 100)
  })
}

variable "gpu_pools" {
  description = "Pools with GPUs by name; modules/pools says what each field means and refuses what cannot be."
  type = map(object({
    machine_type         = string
    accelerator_type     = string
    accelerator_count    = number
    mig_partition        = optional(string)
    time_sharing_clients = optional(number)
    spot                 = optional(bool, false)
    zones                = optional(list(string), [])
    local_ssd_count      = optional(number, 0)
    min_nodes            = number
    max_nodes            = number
    disk_size_gb         = optional(number, 200)
    disk_type            = optional(string, "pd-balanced")
    driver_version       = optional(string, "LATEST")
    surge_max            = optional(number, 0)
    unavailable_max      = optional(number, 1)
    labels               = optional(map(string), {})
  }))
}

variable "database" {
  description = "Size of the database, whether it has a standby, and how many daily backups are kept."
  type = object({
    tier             = string
    highly_available = bool
    disk_size_gb     = number
    backups_kept     = number
  })
}

variable "cache" {
  description = "Size of the cache and whether it has a copy."
  type = object({
    memory_size_gb   = number
    highly_available = bool
  })
}

variable "bucket_name" {
  description = "Name of the bucket for ciphertext, unique in the world."
  type        = string
}

variable "key_protection_level" {
  description = "Where keys are used: SOFTWARE or HSM."
  type        = string
  default     = "HSM"
}

variable "deletion_protection" {
  description = "Whether cluster, database and cache refuse to be deleted. Only dev may be without."
  type        = bool
  default     = true

  validation {
    condition     = var.deletion_protection || var.environment == "dev"
    error_message = "Only dev may be without deletion_protection."
  }
}

variable "labels" {
  description = "Labels of everything that can have some, besides those of the environment."
  type        = map(string)
  default     = {}
}
